//! How many requests to other hosts run at a time: on the whole node, shared fairly among its endpoints, and at one address.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The places of a node. Those who wait stand in a queue of their endpoint, and the queues take turns: an endpoint with a thousand
/// requests delays another one by at most one request.
#[derive(Clone)]
pub(super) struct Places(Arc<Mutex<Waiting>>);

struct Waiting {
    free: usize,
    queues: HashMap<u64, VecDeque<oneshot::Sender<Place>>>,
    /// The queues that are not empty, in the order of their turns.
    turns: VecDeque<u64>,
    queue_next: u64,
}

/// One place; it is free again when this value goes.
pub(super) struct Place(Option<Places>);

impl Places {
    pub(super) fn new(count: usize) -> Self {
        let waiting = Waiting { free: count, queues: HashMap::new(), turns: VecDeque::new(), queue_next: 0 };
        Self(Arc::new(Mutex::new(waiting)))
    }

    /// The name of a new queue.
    pub(super) fn new_queue(&self) -> u64 {
        let mut waiting = self.waiting();
        waiting.queue_next += 1;
        waiting.queue_next
    }

    /// Waits in that queue for a place.
    pub(super) async fn take(&self, queue: u64) -> Place {
        let turn = {
            let mut waiting = self.waiting();
            if waiting.free > 0 {
                waiting.free -= 1;
                return Place(Some(self.clone()));
            }
            let (sender, turn) = oneshot::channel();
            let Waiting { queues, turns, .. } = &mut *waiting;
            let line = queues.entry(queue).or_default();
            if line.is_empty() {
                turns.push_back(queue);
            }
            line.push_back(sender);
            turn
        };
        // The sender is lost only together with the node's places; nothing is left to wait for then.
        turn.await.unwrap_or(Place(None))
    }

    /// Gives a place to whose turn it is.
    fn pass_on(&self) {
        loop {
            let next = {
                let mut waiting = self.waiting();
                match waiting.next() {
                    Some(next) => next,
                    None => {
                        waiting.free += 1;
                        return;
                    }
                }
            };
            // Whoever gave up waiting hands the place back.
            match next.send(Place(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut place) => place.0 = None,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // no code of others runs under this lock, so a poisoned one still holds whole queues
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        let queue = self.turns.pop_front()?;
        let line = self.queues.get_mut(&queue)?;
        let next = line.pop_front();
        if line.is_empty() {
            self.queues.remove(&queue);
        } else {
            self.turns.push_back(queue);
        }
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.pass_on();
        }
    }
}

/// The connections to each address, so that many names cannot turn a node against one host.
#[derive(Clone)]
pub(super) struct Addresses {
    busy: Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>,
    connections_max: usize,
}

/// One connection's turn at an address.
pub(super) struct Turn {
    addresses: Addresses,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

impl Addresses {
    pub(super) fn new(connections_max: usize) -> Self {
        Self { busy: Arc::default(), connections_max }
    }

    /// Waits until fewer than the most connections to this address are open.
    pub(super) async fn take(&self, address: IpAddr) -> Turn {
        let places = {
            let mut busy = self.busy();
            Arc::clone(busy.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.connections_max))))
        };
        let mut turn = Turn { addresses: self.clone(), address, permit: None };
        // never closed, so this only waits
        turn.permit = places.acquire_owned().await.ok();
        turn
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut busy = self.addresses.busy();
        // Whoever holds a permit or waits for one has a clone; clones are made under this lock only.
        if busy.get(&self.address).is_some_and(|places| Arc::strong_count(places) == 1) {
            busy.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_take_turns_however_many_requests_one_has() {
        let places = Places::new(1);
        let (busy, quiet) = (places.new_queue(), places.new_queue());
        let held = places.take(busy).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for queue in [busy, busy, busy, quiet] {
            let (places, order) = (places.clone(), Arc::clone(&order));
            let task = async move {
                let _place = places.take(queue).await;
                order.lock().unwrap().push(queue);
            };
            tasks.push(tokio::spawn(task));
            // On this runtime a yield lets the new task run until it waits.
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [busy, quiet, busy, busy]);
        assert_eq!(places.waiting().free, 1);
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_blocks_nobody() {
        let places = Places::new(1);
        let queue = places.new_queue();
        let held = places.take(queue).await;
        let given_up = tokio::spawn({
            let places = places.clone();
            async move { drop(places.take(queue).await) }
        });
        tokio::task::yield_now().await;
        given_up.abort();
        assert!(given_up.await.is_err());
        drop(held);
        drop(places.take(queue).await);
        assert_eq!(places.waiting().free, 1);
    }

    #[tokio::test]
    async fn an_address_has_so_many_connections_and_is_forgotten_with_the_last() {
        let addresses = Addresses::new(1);
        let here = "192.0.2.1".parse().unwrap();
        let first = addresses.take(here).await;
        let second = tokio::spawn({
            let addresses = addresses.clone();
            async move { drop(addresses.take(here).await) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(addresses.take("192.0.2.2".parse().unwrap()).await);
        drop(first);
        second.await.unwrap();
        assert!(addresses.busy().is_empty());
    }
}
