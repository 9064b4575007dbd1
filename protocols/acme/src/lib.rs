//! ACME (RFC 8555) on top of the engine
