//! The bytes of a fill that are in memory: those not yet written, and the latest.
//!
//! A fill pushes pieces at the end. While the store takes them, pieces that are
//! written leave from the front, and readers find them in the staged file. Once
//! the store has failed, pieces leave when every reader has had them, and what
//! was written before stays readable from the file.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::fs::OpenFile;

/// Names a reader of one window.
pub(super) type ReaderId = u64;

/// Where the bytes at a position are.
pub(super) enum Place {
    Memory(Bytes),
    File(Arc<OpenFile>, Range<u64>),
    /// Not in memory any more, and never written.
    Lost,
}

/// What is in memory of one fill's bytes, and what its file has.
#[derive(Default)]
pub(super) struct Window {
    pieces: VecDeque<Bytes>,
    /// Where the first piece begins.
    start: u64,
    /// Where the last piece ends: how many bytes have been received.
    end: u64,
    file: Option<Arc<OpenFile>>,
    /// How many bytes the file has.
    written: u64,
    store_takes: bool,
    readers: BTreeMap<ReaderId, u64>,
    next_reader: ReaderId,
}

impl Window {
    /// Lets pieces go to `file`, which has all that was written before.
    pub(super) fn attach(&mut self, file: Arc<OpenFile>) {
        self.file = Some(file);
        self.store_takes = true;
    }

    /// Goes on in a file that has all of the first `length` bytes: as many as have been received, or more.
    pub(super) fn go_on_in(&mut self, file: Arc<OpenFile>, length: u64) {
        self.pieces.clear();
        (self.start, self.end, self.written) = (length, length, length);
        self.attach(file);
    }

    /// Shows a file that has all of the blob's bytes.
    pub(super) fn show_whole(&mut self, file: Arc<OpenFile>, size: u64) {
        self.pieces.clear();
        (self.start, self.end, self.written) = (size, size, size);
        self.file = Some(file);
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.pieces.push_back(bytes);
    }

    /// Returns the pieces that the file does not have yet.
    pub(super) fn unwritten(&self) -> Vec<Bytes> {
        let mut at = self.start;
        let mut unwritten = Vec::new();
        for piece in &self.pieces {
            // The file has whole pieces only.
            if at >= self.written {
                unwritten.push(piece.clone());
            }
            at += piece.len() as u64;
        }
        unwritten
    }

    /// Notes that the file has `count` more bytes.
    pub(super) fn note_written(&mut self, count: u64) {
        self.written += count;
    }

    /// Tells that the store takes no more: memory is all there is for further bytes.
    pub(super) fn lose_store(&mut self) {
        self.store_takes = false;
    }

    /// Tells whether the store still takes pieces.
    pub(super) fn store_takes(&self) -> bool {
        self.store_takes
    }

    /// Lets go of what nobody needs beyond `keep` bytes, and tells whether fewer than `limit` are held.
    ///
    /// There is room beside one piece, however large: readers leave it only when there is more, for its last
    /// byte may be held back.
    pub(super) fn has_room(&mut self, keep: u64, limit: u64) -> bool {
        let needed_from = if self.store_takes {
            self.written
        } else {
            self.slowest_reader().unwrap_or(self.end)
        };
        while self.end - self.start > keep && self.drop_front(needed_from) {}
        self.end - self.start < limit || self.pieces.len() <= 1
    }

    /// Lets go of what is beyond `keep` bytes whoever needs it; its readers will find it lost.
    ///
    /// The last piece stays: who has read all but its last byte is not slow.
    pub(super) fn leave_the_slow_behind(&mut self, keep: u64) {
        while self.pieces.len() > 1 && self.end - self.start > keep && self.drop_front(u64::MAX) {}
    }

    /// Lets go of all pieces that the file has.
    pub(super) fn release_written(&mut self) {
        while self.drop_front(self.written) {}
    }

    fn drop_front(&mut self, needed_from: u64) -> bool {
        let Some(length) = self.pieces.front().map(|piece| piece.len() as u64) else {
            return false;
        };
        if self.start + length > needed_from {
            return false;
        }
        self.pieces.pop_front();
        self.start += length;
        true
    }

    /// Returns where the bytes from `position` on are; `limit` lies beyond it and has been received.
    pub(super) fn read(&self, position: u64, limit: u64) -> Place {
        if position < self.start {
            return match &self.file {
                Some(file) if position < self.written => {
                    Place::File(Arc::clone(file), position..limit.min(self.written))
                }
                _ => Place::Lost,
            };
        }
        let mut at = self.start;
        for piece in &self.pieces {
            let next = at + piece.len() as u64;
            if position < next {
                // Both lie within a piece, whose length is a usize.
                let from = (position - at) as usize;
                let to = (limit.min(next) - at) as usize;
                return Place::Memory(piece.slice(from..to));
            }
            at = next;
        }
        Place::Lost
    }

    /// Tells whether a reader that begins at `position` finds every byte.
    pub(super) fn can_be_read_from(&self, position: u64) -> bool {
        self.holds_from(position) || self.start <= self.written
    }

    /// Tells whether a reader that begins at `position` finds every byte in memory.
    pub(super) fn holds_from(&self, position: u64) -> bool {
        position >= self.start
    }

    /// Counts a reader, which needs what lies from `position` on.
    pub(super) fn add_reader(&mut self, position: u64) -> ReaderId {
        let id = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(id, position);
        id
    }

    /// Notes how far a reader is.
    pub(super) fn move_reader(&mut self, reader: ReaderId, position: u64) {
        self.readers.insert(reader, position);
    }

    /// Forgets a reader.
    pub(super) fn remove_reader(&mut self, reader: ReaderId) {
        self.readers.remove(&reader);
    }

    /// Tells whether anybody reads who has not been left behind.
    pub(super) fn has_readers(&self) -> bool {
        self.slowest_reader().is_some()
    }

    /// Tells whether a reader has had all that has been received, or all but the last byte, which may be
    /// held back.
    ///
    /// Not one whose range begins further on: clients fetch parts side by side, and wait for themselves.
    pub(super) fn is_read_up(&self) -> bool {
        let read_up = self.end.saturating_sub(1)..=self.end;
        self.readers.values().any(|position| read_up.contains(position))
    }

    /// Returns where the slowest reader is, of those who can have the rest; the others may not know yet.
    fn slowest_reader(&self) -> Option<u64> {
        let positions = self.readers.values().copied();
        positions
            .filter(|position| self.can_be_read_from(*position))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window_of(pieces: &[&'static str]) -> Window {
        let mut window = Window::default();
        for piece in pieces {
            window.push(Bytes::from_static(piece.as_bytes()));
        }
        window
    }

    fn in_memory(window: &Window, position: u64, limit: u64) -> Option<Bytes> {
        match window.read(position, limit) {
            Place::Memory(bytes) => Some(bytes),
            Place::File(..) | Place::Lost => None,
        }
    }

    #[test]
    fn bytes_are_found_in_memory_until_they_are_written_and_then_in_the_file() {
        let mut window = window_of(&["abc", "de", "fgh"]);
        window.attach(Arc::new(tempfile::tempfile().unwrap().into()));
        assert_eq!(in_memory(&window, 1, 8).unwrap(), "bc");
        assert_eq!(in_memory(&window, 3, 4).unwrap(), "d");
        assert!(!window.has_room(0, 8), "nothing is written");
        window.note_written(5);
        assert_eq!(window.unwritten(), ["fgh"]);
        assert!(window.has_room(0, 8));
        assert!(matches!(window.read(1, 8), Place::File(_, range) if range == (1..5)));
        assert_eq!(in_memory(&window, 7, 8).unwrap(), "h");
        assert!(window.can_be_read_from(0));
    }

    #[test]
    fn who_waits_for_the_last_byte_is_not_slow() {
        let mut window = window_of(&["abc", "defgh"]);
        let (slow, fast) = (window.add_reader(0), window.add_reader(7));
        assert!(!window.has_room(2, 4) && window.is_read_up());
        window.leave_the_slow_behind(2);
        assert!(!window.can_be_read_from(0));
        assert_eq!(in_memory(&window, 7, 8).unwrap(), "h");
        assert!(window.has_room(2, 4), "the rest, or the end, must come first");
        window.remove_reader(slow);
        window.remove_reader(fast);
    }

    #[test]
    fn without_the_store_bytes_stay_until_every_reader_has_had_them_or_is_left_behind() {
        let mut window = window_of(&["abc", "de", "fgh"]);
        let (slow, fast) = (window.add_reader(0), window.add_reader(8));
        assert!(!window.has_room(0, 8));
        window.move_reader(slow, 4);
        assert!(window.has_room(0, 8));
        assert!(matches!(window.read(0, 8), Place::Lost));
        assert_eq!(in_memory(&window, 4, 8).unwrap(), "e");
        window.leave_the_slow_behind(4);
        assert!(matches!(window.read(4, 8), Place::Lost));
        assert!(!window.can_be_read_from(4) && window.can_be_read_from(5));
        // The one who was left behind holds up nobody, though he has not been told.
        window.push(Bytes::from_static(b"ij"));
        window.move_reader(fast, 10);
        assert!(window.has_room(0, 1) && window.is_read_up());
        window.move_reader(fast, 11);
        assert!(!window.is_read_up(), "his range begins further on");
        window.remove_reader(fast);
        assert!(!window.has_readers());
        window.remove_reader(slow);
    }
}
