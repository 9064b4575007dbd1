//! OCSP answers.
