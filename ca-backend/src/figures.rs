//! The names of the figures that the engine counts, through the `metrics` facade.

/// Outcomes of enrollment; labels `protocol`, `profile`, `outcome` (`issued`, `pending`, `refused`, `unavailable`).
pub const ENROLLMENTS: &str = "certgate_enrollments_total";
/// Time for an enrollment; label `protocol`.
pub const ENROLLMENT_SECONDS: &str = "certgate_enrollment_seconds";
/// Changes of status; label `change` (`revoked`, `held`, `unheld`).
pub const STATUS_CHANGES: &str = "certgate_status_changes_total";
/// OCSP answers that were signed; label `issuer`. Those from memory are counted by the gateway.
pub const OCSP_SIGNED: &str = "certgate_ocsp_signed_total";
/// Groups of batches that the store made durable, each with one wait for the disk.
pub const STORE_GROUPS: &str = "certgate_store_groups_total";
