use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use gateway::pool::{Full, Lane, Panicked};

#[tokio::test]
async fn work_runs_on_a_thread_that_bears_the_name_of_its_lane() {
    let lane = Lane::start("enroll", 1, 1).unwrap();
    let name = lane.run(|| std::thread::current().name().map(str::to_owned)).unwrap().await;
    assert_eq!(name, Ok(Some("enroll-0".to_owned())));
}

#[tokio::test]
async fn a_full_lane_refuses_at_once() {
    let lane = Lane::start("full", 1, 1).unwrap();
    let (begun, began) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let running = lane.run(move || begun.send(()).and_then(|()| held.recv().map_err(|_| mpsc::SendError(())))).unwrap();
    began.recv().unwrap();
    let waiting = lane.run(|| 7).unwrap();
    assert!(matches!(lane.run(|| 8), Err(Full)));
    release.send(()).unwrap();
    assert_eq!(running.await, Ok(Ok(())));
    assert_eq!(waiting.await, Ok(7));
    assert_eq!(lane.run(|| 9).unwrap().await, Ok(9));
}

#[tokio::test]
async fn s20_a_panic_ends_one_task_and_not_its_thread() {
    let lane = Lane::start("panics", 1, 4).unwrap();
    assert_eq!(lane.run(|| panic!("as asked for")).unwrap().await, Err::<(), _>(Panicked));
    assert_eq!(lane.run(|| 1).unwrap().await, Ok(1));
}

#[tokio::test]
async fn work_that_nobody_waits_for_leaves_the_queue_and_is_never_begun() {
    let lane = Lane::start("dropped", 1, 1).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let (begun, began) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let running = lane.run(move || begun.send(()).map_err(|_| mpsc::RecvError).and_then(|()| held.recv())).unwrap();
    began.recv().unwrap();
    // the only thread is busy and there is one place: each of these gets it only since the one before has left
    for _ in 0..3 {
        let counted = Arc::clone(&runs);
        drop(lane.run(move || counted.fetch_add(1, Ordering::SeqCst)).unwrap());
    }
    let last = lane.run(|| 7).unwrap();
    assert!(matches!(lane.run(|| 8), Err(Full)));
    release.send(()).unwrap();
    assert_eq!(running.await, Ok(Ok(())));
    assert_eq!(last.await, Ok(7));
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_stopped_lane_finishes_what_waits_and_takes_no_more() {
    let lane = Lane::start("stopped", 1, 4).unwrap();
    let (release, held) = mpsc::channel::<()>();
    let first = lane.run(move || held.recv()).unwrap();
    let second = lane.run(|| 2).unwrap();
    release.send(()).unwrap();
    lane.stop();
    assert!(matches!(lane.run(|| 3), Err(Full)));
    assert_eq!(first.await, Ok(Ok(())));
    assert_eq!(second.await, Ok(2));
}
