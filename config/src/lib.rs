//! Typed node settings.
