//! How many answers with a CRL are made at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use ca_backend::Fault;

/// Counts the answers with a CRL that an endpoint is making.
#[derive(Debug, Default)]
pub(crate) struct CrlPlaces(AtomicUsize);

/// One such answer, until it is made.
#[derive(Debug)]
pub(crate) struct CrlPlace<'a>(&'a AtomicUsize);

impl CrlPlaces {
    /// Takes a place.
    ///
    /// # Errors
    /// [`Fault::TryLater`] if so many are taken.
    pub(crate) fn take(&self, at_once_max: usize) -> Result<CrlPlace<'_>, Fault> {
        const RETRY_AFTER_S: u32 = 5;
        let one_more = |taken: usize| (taken < at_once_max).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.map(|_| CrlPlace(&self.0)).map_err(|_| Fault::TryLater { after_s: RETRY_AFTER_S })
    }
}

impl Drop for CrlPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_places_can_be_taken_and_one_that_is_left_can_be_taken_again() {
        let places = CrlPlaces::default();
        let first = places.take(2).unwrap();
        let _second = places.take(2).unwrap();
        assert!(matches!(places.take(2), Err(Fault::TryLater { .. })));
        drop(first);
        assert!(places.take(2).is_ok());
    }
}
