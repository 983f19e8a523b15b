//! Buffers that a worker lends to its connections. A connection holds one only while it has bytes in it, so that idle
//! connections, nearly all of them, hold none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

pub(crate) const SMALL_BYTES: usize = 16 * 1024;
pub(crate) const LARGE_BYTES: usize = 128 * 1024;
/// Free buffers a worker keeps of each size; more are freed.
const KEPT_BUFFERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Fits the first-level cache, for what comes in small pieces.
    Small,
    /// Takes few system calls, for bulk.
    Large,
}

thread_local! {
    static SHELVES: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn shelf_of(bytes: usize) -> usize {
    usize::from(bytes == LARGE_BYTES)
}

/// A buffer that goes back to the worker when dropped. What it holds at first is undefined: zeros, or what someone left.
pub(crate) struct Lent(Box<[u8]>);

impl Lent {
    pub(crate) fn new(size: Size) -> Self {
        let bytes = match size {
            Size::Small => SMALL_BYTES,
            Size::Large => LARGE_BYTES,
        };
        let kept = SHELVES.with_borrow_mut(|shelves| shelves[shelf_of(bytes)].pop());
        Self(kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // Fails only while the thread ends and its shelves are gone: the buffer is freed then.
        let _ended = SHELVES.try_with(|shelves| {
            let shelf = &mut shelves.borrow_mut()[shelf_of(bytes.len())];
            if shelf.len() < KEPT_BUFFERS {
                shelf.push(bytes);
            }
        });
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_up_to_a_bound() {
        let lent: Vec<Lent> = (0..KEPT_BUFFERS + 3)
            .map(|_| Lent::new(Size::Large))
            .collect();
        let small = Lent::new(Size::Small);
        assert_eq!((lent[0].len(), small.len()), (LARGE_BYTES, SMALL_BYTES));
        let first = small.as_ptr();
        drop((lent, small));
        SHELVES.with_borrow(|[small, large]| {
            assert_eq!((small.len(), large.len()), (1, KEPT_BUFFERS));
        });
        assert_eq!(Lent::new(Size::Small).as_ptr(), first);
    }
}
