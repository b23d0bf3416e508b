//! Bounded queues between the threads, and the buffers that go through them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// The other side is gone, because something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// A bounded queue for any number of threads on both sides. Waiting threads are counted, so that
/// none is woken in vain.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// There is something to take.
    filled: Condvar,
    /// There is room.
    drained: Condvar,
    /// Everything is dealt with.
    finished: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Taken, and not yet reported as done.
    taken: usize,
    closed: bool,
    aborted: bool,
    /// Threads waiting for each of the three.
    takers: usize,
    givers: usize,
    idlers: usize,
}

impl<T> State<T> {
    fn is_idle(&self) -> bool {
        self.taken == 0 && self.items.is_empty()
    }
}

impl<T> Queue<T> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::with_capacity(room),
                taken: 0,
                closed: false,
                aborted: false,
                takers: 0,
                givers: 0,
                idlers: 0,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
            finished: Condvar::new(),
            room,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    /// Adds one, as soon as there is room.
    pub(super) fn push(&self, item: T) -> Result<(), Gone> {
        let mut state = self.state();
        while state.items.len() >= self.room && !state.aborted {
            state.givers += 1;
            self.drained.wait(&mut state);
            state.givers -= 1;
        }
        if state.aborted {
            return Err(Gone);
        }
        state.items.push_back(item);
        let awaited = state.takers > 0;
        drop(state);
        if awaited {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes one, as soon as there is any. `None` when no more will come.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if state.aborted {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                state.taken += 1;
                let awaited = state.givers > 0;
                drop(state);
                if awaited {
                    self.drained.notify_one();
                }
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.takers += 1;
            self.filled.wait(&mut state);
            state.takers -= 1;
        }
    }

    /// Says that what was taken is dealt with; who waits for [`Queue::idle`] needs it.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.taken -= 1;
        let awaited = state.idlers > 0 && state.is_idle();
        drop(state);
        if awaited {
            self.finished.notify_all();
        }
    }

    /// Waits until everything that was added is dealt with.
    pub(super) fn idle(&self) -> Result<(), Gone> {
        let mut state = self.state();
        while !state.aborted && !state.is_idle() {
            state.idlers += 1;
            self.finished.wait(&mut state);
            state.idlers -= 1;
        }
        if state.aborted { Err(Gone) } else { Ok(()) }
    }

    /// No more will be added.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    /// Drops the content and ends all waiting.
    pub(super) fn abort(&self) {
        let mut state = self.state();
        state.aborted = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        drop(items);
        self.filled.notify_all();
        self.drained.notify_all();
        self.finished.notify_all();
    }
}

/// Buffers of one size, of which there are only so many.
#[derive(Debug)]
pub(super) struct Pool {
    free: Queue<Option<Box<[u8]>>>,
    size: usize,
}

impl Pool {
    /// `count` buffers of `size` bytes. Each takes memory when it is used first.
    pub(super) fn new(count: usize, size: usize) -> Arc<Self> {
        let free = Queue::new(count);
        for _ in 0..count {
            let _ = free.push(None);
        }
        Arc::new(Self { free, size })
    }

    /// A buffer, as soon as one is free.
    pub(super) fn take(self: &Arc<Self>) -> Result<Block, Gone> {
        let data = self.free.pop().ok_or(Gone)?;
        let data = data.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Ok(Block {
            data,
            pool: Arc::clone(self),
        })
    }

    pub(super) fn abort(&self) {
        self.free.abort();
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) data: Box<[u8]>,
    pool: Arc<Pool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let _ = self.pool.free.push(Some(data)); // there is room: it was taken from there
    }
}

/// Part of a buffer that several threads read.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    block: Arc<Block>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// The first `length` bytes of a buffer.
    pub(super) fn new(block: Block, length: usize) -> Self {
        Self {
            block: Arc::new(block),
            start: 0,
            end: length,
        }
    }

    /// Takes up to `most` bytes off its start.
    pub(super) fn split(&mut self, most: usize) -> Self {
        let middle = self.start.saturating_add(most).min(self.end);
        let first = Self {
            block: Arc::clone(&self.block),
            start: self.start,
            end: middle,
        };
        self.start = middle;
        first
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.data[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{scope, yield_now};

    use super::*;

    /// Waits until a thread waits at the queue.
    fn until<T>(queue: &Queue<T>, waits: impl Fn(&State<T>) -> bool) {
        while !waits(&queue.state()) {
            yield_now();
        }
    }

    #[test]
    fn items_come_in_order_and_end_with_the_close() {
        let queue = Queue::new(3);
        for item in 1..=3 {
            assert_eq!(queue.push(item), Ok(()));
        }
        queue.close();
        let taken: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_giver_waits_for_room_and_a_taker_for_an_item() {
        let queue = Queue::new(1);
        queue.push(1).unwrap();
        scope(|scope| {
            let giver = scope.spawn(|| queue.push(2));
            until(&queue, |state| state.givers == 1);
            assert_eq!(
                queue.state().items.len(),
                1,
                "no more than there is room for"
            );
            assert_eq!(queue.pop(), Some(1));
            assert_eq!(giver.join().unwrap(), Ok(()));
        });
        assert_eq!(queue.pop(), Some(2));
        scope(|scope| {
            let taker = scope.spawn(|| queue.pop());
            until(&queue, |state| state.takers == 1);
            queue.push(3).unwrap();
            assert_eq!(taker.join().unwrap(), Some(3));
            let taker = scope.spawn(|| queue.pop());
            until(&queue, |state| state.takers == 1);
            queue.close();
            assert_eq!(taker.join().unwrap(), None);
        });
    }

    #[test]
    fn it_is_idle_when_all_that_was_taken_is_done() {
        let queue = Queue::new(2);
        assert_eq!(queue.idle(), Ok(()));
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        let is_done = AtomicBool::new(false);
        scope(|scope| {
            let idler = scope.spawn(|| (queue.idle(), is_done.load(Ordering::SeqCst)));
            until(&queue, |state| state.idlers == 1);
            queue.pop();
            queue.done();
            queue.pop();
            until(&queue, |state| state.idlers == 1);
            is_done.store(true, Ordering::SeqCst);
            queue.done();
            assert_eq!(idler.join().unwrap(), (Ok(()), true));
        });
    }

    #[test]
    fn an_abort_ends_all_waiting_and_drops_the_content() {
        let full = Queue::new(1);
        full.push(Arc::new(())).unwrap();
        let item = Arc::clone(&full.state().items[0]);
        let empty = Queue::<()>::new(1);
        scope(|scope| {
            let giver = scope.spawn(|| full.push(Arc::new(())));
            let idler = scope.spawn(|| full.idle());
            until(&full, |state| state.givers == 1 && state.idlers == 1);
            full.abort();
            assert_eq!(giver.join().unwrap(), Err(Gone));
            assert_eq!(idler.join().unwrap(), Err(Gone));
            let taker = scope.spawn(|| empty.pop());
            until(&empty, |state| state.takers == 1);
            empty.abort();
            assert_eq!(taker.join().unwrap(), None);
        });
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(full.pop().is_none());
        assert_eq!(full.idle(), Err(Gone));
    }

    #[test]
    fn buffers_are_used_again_and_no_more_than_there_are() {
        let pool = Pool::new(2, 8);
        let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((one.data.len(), two.data.len()), (8, 8));
        let address = one.data.as_ptr() as usize;
        scope(|scope| {
            let taker = scope.spawn(|| pool.take().unwrap().data.as_ptr() as usize);
            until(&pool.free, |state| state.takers == 1);
            drop(one);
            assert_eq!(taker.join().unwrap(), address);
        });
        let mut chunk = Chunk::new(two, 5);
        assert_eq!((chunk.len(), chunk.split(2).len(), chunk.len()), (5, 2, 3));
        assert_eq!((chunk.split(9).len(), chunk.len()), (3, 0));
        pool.abort();
        assert_eq!(pool.take().err(), Some(Gone));
    }
}
