//! Engines that break, and engines that are slow to make durable.

use std::sync::{Mutex, mpsc};
use std::thread;

use super::*;

/// A table that panics, is full or hangs on command.
#[derive(Debug, Default)]
pub(super) struct BrittleTable {
    inner: MemoryTable,
    pub(super) panics: std::sync::atomic::AtomicBool,
    pub(super) is_full: Arc<std::sync::atomic::AtomicBool>,
    /// Whoever holds it keeps writes from being applied.
    pub(super) hangs: Arc<Mutex<()>>,
}

impl table::Table for BrittleTable {
    fn read(&self, key: &[u8]) -> Result<Option<table::RawValue>, StoreFault> {
        self.inner.read(key)
    }

    fn walk(
        &self,
        range: &table::RawRange,
        visit: &mut dyn FnMut(&[u8], table::RawValue) -> bool,
    ) -> Result<(), StoreFault> {
        self.inner.walk(range, visit)
    }

    fn apply(&self, writes: Arc<table::Writes>) -> Result<(), StoreFault> {
        assert!(!self.panics.load(std::sync::atomic::Ordering::SeqCst), "the table broke");
        let _held = self.hangs.lock().unwrap();
        self.inner.apply(writes)
    }

    fn room(&self, _bytes: u64) -> Result<(), StoreFault> {
        let is_full = self.is_full.load(std::sync::atomic::Ordering::SeqCst);
        if is_full { Err(StoreFault::Full("the test filled it".into())) } else { Ok(()) }
    }
}

#[test]
fn a_panic_of_the_engine_is_a_fault_for_every_caller_from_then_on() {
    let table = BrittleTable::default();
    table.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let store = Committer::start(table).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert!(matches!(
                    store.commit(Batch::new().add("n", 1)),
                    Err(CommitError::Fault(StoreFault::Corrupt(_)))
                ))
            });
        }
    });
    assert!(store.get(Space::Counter, b"n").is_err());
    assert!(store.health().is_err());
}

/// A table that shows writes before they are durable, as sled does, and makes them durable when told.
#[derive(Debug)]
struct EagerTable {
    inner: MemoryTable,
    visible: mpsc::Sender<()>,
    may_settle: Mutex<mpsc::Receiver<()>>,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl table::Table for EagerTable {
    fn read(&self, key: &[u8]) -> Result<Option<table::RawValue>, StoreFault> {
        self.inner.read(key)
    }

    fn walk(
        &self,
        range: &table::RawRange,
        visit: &mut dyn FnMut(&[u8], table::RawValue) -> bool,
    ) -> Result<(), StoreFault> {
        self.inner.walk(range, visit)
    }

    fn apply(&self, writes: Arc<table::Writes>) -> Result<(), StoreFault> {
        self.inner.apply(writes)?;
        self.visible.send(()).unwrap();
        self.may_settle.lock().unwrap().recv().unwrap();
        self.order.lock().unwrap().push("durable");
        Ok(())
    }

    fn room(&self, _bytes: u64) -> Result<(), StoreFault> {
        Ok(())
    }
}

/// Commits a batch to a store that holds `k`, reads while the batch is visible and not durable, and tells what came first.
fn order_of(batch: Batch, read: fn(&dyn Store)) -> Vec<&'static str> {
    let (visible, is_visible) = mpsc::channel();
    let (settle, may_settle) = mpsc::channel();
    let order = Arc::new(Mutex::default());
    let table = EagerTable {
        inner: MemoryTable::default(),
        visible,
        may_settle: Mutex::new(may_settle),
        order: Arc::clone(&order),
    };
    let store = Committer::start(table).unwrap();
    settle.send(()).unwrap();
    store.commit(Batch::new().put(Space::Origin, "k", "old")).unwrap();
    is_visible.recv().unwrap();
    order.lock().unwrap().clear();
    thread::scope(|scope| {
        scope.spawn(|| store.commit(batch).unwrap());
        is_visible.recv().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (store, order) = (&store, &order);
        scope.spawn(move || {
            begun.send(()).unwrap();
            read(store);
            order.lock().unwrap().push("read");
        });
        has_begun.recv().unwrap();
        (0..10_000).for_each(|_| thread::yield_now()); // a chance to read too early
        settle.send(()).unwrap();
    });

    order.lock().unwrap().clone()
}

#[test]
fn nobody_reads_what_is_not_durable_yet() {
    let put = || Batch::new().put(Space::Origin, "k", "new");
    let delete = || Batch::new().delete(Space::Origin, "k");
    let read: fn(&dyn Store) = |store| drop(store.get(Space::Origin, b"k").unwrap());
    let scan: fn(&dyn Store) = |store| drop(store.scan(Space::Origin, &Range::default(), 9).unwrap());
    for (batch, read) in [(put(), read), (delete(), read), (put(), scan), (delete(), scan)] {
        assert_eq!(order_of(batch, read), ["durable", "read"]);
    }
    // What the batch does not touch is read at once.
    let elsewhere = Batch::new().put(Space::Ticket, "elsewhere", "new");
    assert_eq!(order_of(elsewhere, |store| drop(store.get(Space::Origin, b"k").unwrap())), ["read", "durable"]);
}

#[cfg(feature = "testing")]
mod faulty_store {
    use super::*;
    use crate::store::faulty::FaultyStore;

    fn over(inner: &Arc<dyn Store>) -> (FaultyStore, Arc<Faults>) {
        let faults = Faults::none();
        (FaultyStore::new(Arc::clone(inner), Arc::clone(&faults)), faults)
    }

    fn number(n: u32) -> Batch {
        Batch::new().put(Space::Origin, n.to_be_bytes(), "x")
    }

    #[test]
    fn fails_before_or_after_the_nth_commit_and_stays_down_until_reopened() {
        for (moment, stored) in [(FailureMoment::BeforeWrite, false), (FailureMoment::AfterWrite, true)] {
            let inner = open(StoreKind::Memory, Path::new(""), OPTIONS).unwrap();
            let (store, faults) = over(&inner);
            faults.fail_at(2, moment);
            store.commit(number(1)).unwrap();
            assert!(matches!(store.commit(number(2)), Err(CommitError::Fault(StoreFault::Unavailable(_)))));
            assert!(faults.power_is_out());
            store.commit(number(3)).unwrap_err();
            store.get(Space::Origin, &1_u32.to_be_bytes()).unwrap_err();
            store.scan(Space::Origin, &Range::default(), 1).unwrap_err();
            store.dump(None, 1).unwrap_err();
            store.restore(Vec::new()).unwrap_err();
            store.health().unwrap_err();
            assert_eq!(faults.commits(), 2);
            let (reopened, _) = over(&inner);
            assert!(reopened.get(Space::Origin, &1_u32.to_be_bytes()).unwrap().is_some());
            assert_eq!(reopened.get(Space::Origin, &2_u32.to_be_bytes()).unwrap().is_some(), stored);
            assert!(reopened.get(Space::Origin, &3_u32.to_be_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn a_full_disk_refuses_commits_serves_reads_and_recovers() {
        let (store, faults) = over(&open(StoreKind::Memory, Path::new(""), OPTIONS).unwrap());
        store.commit(number(1)).unwrap();
        faults.disk_is_full(true);
        assert!(matches!(store.commit(number(2)), Err(CommitError::Fault(StoreFault::Full(_)))));
        assert!(matches!(store.health(), Err(StoreFault::Full(_))));
        assert!(store.get(Space::Origin, &1_u32.to_be_bytes()).unwrap().is_some());
        faults.disk_is_full(false);
        store.commit(number(2)).unwrap();
        store.health().unwrap();
    }
}
