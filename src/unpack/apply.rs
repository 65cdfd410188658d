//! Reads the archive, and says what is to be created in which order.
//!
//! One thread reads; what it finds goes to the writers as independent jobs, except where the order counts:
//!
//! - A path that comes twice: all that is under way is awaited, the earlier one is removed, then the later
//!   one is created. Two entries of one directory are one directory with the later one's metadata.
//! - Hard links are made after everything that came before the next removal, or at the end.
//! - Whiteouts are made when it is known which names the layer has itself: such a name needs none, and a
//!   directory that is deleted and made anew in one layer is opaque.
//! - Directories get owner, mode and times last, when nothing more is created in them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rustix::fs::AtFlags;

use super::archive::Archive;
use super::create::Creation;
use super::digest::TreeDigest;
use super::entry::{Device, Entry, FileShape, Kind, Meta, Time};
use super::error::EntryFault;
use super::link::{LinkTarget, Name};
use super::name::{self, MAX_PATH_BYTES, Meaning};
use super::place::Dir;
use super::pool::{Content, Job, Pool, Work};
use super::tar_split::Replaced;
use super::tree::{DirId, FileNode, Node, ROOT, Tree};
use super::{UnpackError, Unsettled};
use crate::oci::DiffId;

/// Content up to this size goes to a writer whole; more flows to it in pieces.
const WHOLE_BYTES: u64 = 256 << 10;

/// How many pieces may wait for the writer of a large file.
const WAITING_PIECES: usize = 4;

/// How much memory attributes of directories and targets of symbolic links may take, which are kept to the end:
/// some megabytes in the largest layers there are.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// How much memory hard links may take that are to be made.
const MAX_LINK_BYTES: usize = 8 << 20;

/// The mode of a directory that has no entry, unless the layers below have it.
pub(super) const IMPLIED_MODE: u32 = 0o755;

/// The reader's side of an unpacking.
pub(super) struct Reading<'a> {
    archive: Archive<'a>,
    pool: &'a Pool,
    creation: &'a Creation<'a>,
    tree: Tree,
    /// Hard links that are to be made.
    links: Vec<Job>,
    /// Those of them that are names of symbolic links and devices, which [`Tree`] keeps no names of.
    awaited: HashMap<(DirId, Box<[u8]>), Arc<LinkTarget>>,
    replaced: Replaced,
    /// How much memory they take.
    link_bytes: usize,
    /// How much memory attributes and targets take that are kept.
    kept_bytes: usize,
    seen_entries: u64,
    next_serial: u64,
    /// Where the last entry's parent was: entries of a directory mostly follow each other.
    last_parent: Option<(Vec<u8>, DirId)>,
}

/// What the whole archive was.
pub(super) struct Read {
    pub(super) diff_id: DiffId,
    pub(super) size_bytes: u64,
    pub(super) unsettled: Unsettled,
    pub(super) tree_digest: TreeDigest,
    pub(super) replaced: Replaced,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        archive: Archive<'a>,
        pool: &'a Pool,
        creation: &'a Creation<'a>,
        replaced: Replaced,
    ) -> Self {
        Self {
            archive,
            pool,
            creation,
            tree: Tree::new(Dir::root()),
            links: Vec::new(),
            awaited: HashMap::new(),
            replaced,
            link_bytes: 0,
            kept_bytes: 0,
            seen_entries: 0,
            next_serial: 1,
            last_parent: None,
        }
    }

    /// Reads everything, and returns when all is created.
    pub(super) fn run(mut self) -> Result<Read, UnpackError> {
        while let Some(entry) = self.archive.next_entry()? {
            self.count_entry()?;
            self.take(entry)?;
        }
        self.flush_links()?;
        self.mark_remade_directories();
        self.make_whiteouts()?;
        self.finish_directories()?;
        let unsettled = self.unsettled();
        let tree_digest = TreeDigest::of(&self.tree);
        let (diff_id, size_bytes) = self.archive.finish()?;
        Ok(Read {
            diff_id,
            size_bytes,
            unsettled,
            tree_digest,
            replaced: self.replaced,
        })
    }

    fn count_entry(&mut self) -> Result<(), UnpackError> {
        self.seen_entries += 1;
        let max = self.creation.options.limits.max_entries;
        if self.seen_entries > max {
            return Err(UnpackError::limit("max_layer_entries", max));
        }
        Ok(())
    }

    fn take(&mut self, entry: Entry) -> Result<(), UnpackError> {
        let fault = |fault| UnpackError::entry(&entry.name, fault);
        let parts = name::split(&entry.name).map_err(fault)?;
        let Some((last, parent)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(fault(EntryFault::Root));
            }
            return self.keep_meta(ROOT, &entry.name, entry.meta);
        };
        match name::meaning(last).map_err(fault)? {
            Meaning::Ignored => Ok(()),
            Meaning::Opaque => {
                if let Some(dir) = self.hiding_directory(parent, &entry.name)? {
                    self.tree.dir_mut(dir).is_opaque = true;
                }
                Ok(())
            }
            Meaning::Whiteout(gone) => {
                if let Some(dir) = self.hiding_directory(parent, &entry.name)? {
                    self.tree.dir_mut(dir).whiteouts.insert(gone.into());
                }
                Ok(())
            }
            Meaning::Present(last) => {
                let dir = self.directory(parent, &entry.name)?;
                self.present(dir, last, &entry.name, entry.meta, entry.kind)
            }
        }
    }

    /// Returns the directory that a whiteout is in. `None` if this layer has a file or a link on the way, which
    /// hides all that was below its name: umoci writes the whiteouts of a directory that became one.
    fn hiding_directory(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<Option<DirId>, UnpackError> {
        if self.tree.is_cut_off(path) {
            return Ok(None);
        }
        self.directory(path, entry).map(Some)
    }

    /// Returns the directory that a path leads to, made as far as it is not there.
    fn directory(&mut self, path: &[&[u8]], entry: &[u8]) -> Result<DirId, UnpackError> {
        let key = path.join(b"/".as_slice());
        if let Some((last, dir)) = &self.last_parent
            && *last == key
        {
            return Ok(*dir);
        }
        let resolved = self
            .tree
            .resolve(path)
            .map_err(|fault| UnpackError::entry(entry, fault))?;
        let mut dir = resolved.dir;
        for name in &resolved.missing {
            // One entry's name can stand for 2,000 directories.
            self.count_entry()?;
            dir = self.make_dir(dir, name, IMPLIED_MODE, entry)?;
        }
        self.last_parent = Some((key, dir));
        Ok(dir)
    }

    fn present(
        &mut self,
        dir: DirId,
        name: &[u8],
        entry: &[u8],
        meta: Meta,
        kind: Kind,
    ) -> Result<(), UnpackError> {
        let there = self.tree.get(dir, name).cloned();
        match (&there, &kind) {
            (Some(Node::Directory(id)), Kind::Directory) => {
                return self.keep_meta(*id, entry, meta);
            }
            (Some(_), Kind::Hardlink { target }) if self.leads_to(target, dir, name) => return Ok(()),
            (Some(node), _) => self.remove(dir, name, node)?,
            (None, _) => {}
        }
        match kind {
            Kind::Directory => {
                let id = self.make_dir(dir, name, meta.mode, entry)?;
                self.keep_meta(id, entry, meta)
            }
            Kind::File(shape) => self.file(dir, name, entry, meta, shape),
            Kind::Symlink { target } => self.symlink(dir, name, entry, meta, target),
            Kind::Hardlink { target } => self.hardlink(dir, name, entry, meta, &target),
            Kind::Device(Device::Character { major: 0, minor: 0 }) => {
                Err(UnpackError::entry(entry, EntryFault::LiteralWhiteout))
            }
            Kind::Device(device) => {
                self.tree.insert(dir, name, Node::Device(device));
                self.submit(dir, name, Work::Device { meta, device })
            }
        }
    }

    fn keep_meta(&mut self, dir: DirId, entry: &[u8], meta: Meta) -> Result<(), UnpackError> {
        self.keep(meta.held_bytes(), entry)?;
        self.tree.dir_mut(dir).meta = Some(meta);
        Ok(())
    }

    fn keep(&mut self, bytes: usize, entry: &[u8]) -> Result<(), UnpackError> {
        self.kept_bytes += bytes;
        if self.kept_bytes > MAX_KEPT_BYTES {
            return Err(UnpackError::entry(entry, EntryFault::TooMuch));
        }
        Ok(())
    }

    fn make_dir(
        &mut self,
        parent: DirId,
        name: &[u8],
        mode: u32,
        entry: &[u8],
    ) -> Result<DirId, UnpackError> {
        // Only what is made through links of the layer can become longer than its entry's name.
        let parent_place = Arc::clone(&self.tree.dir(parent).place);
        if parent_place.path_bytes() + 1 + name.len() > MAX_PATH_BYTES {
            return Err(UnpackError::entry(entry, EntryFault::TooLong));
        }
        let made = Dir::below(&parent_place, name, self.next_serial);
        self.next_serial += 1;
        let id = self.tree.add_dir(parent, name, Arc::clone(&made));
        let mode = mode & 0o777;
        self.tree.dir_mut(id).made_mode = Some(mode);
        self.submit(parent, name, Work::MakeDir { made, mode })?;
        Ok(id)
    }

    fn file(
        &mut self,
        dir: DirId,
        name: &[u8],
        entry: &[u8],
        meta: Meta,
        shape: FileShape,
    ) -> Result<(), UnpackError> {
        let record = if shape.is_dense() && self.is_at(dir, name, entry) {
            self.archive.leave_content(entry)?
        } else {
            None
        };
        let file = FileNode {
            size: shape.size,
            names: None,
            record,
        };
        self.tree.insert(dir, name, Node::File(file));
        if shape.content_bytes() <= WHOLE_BYTES {
            let mut pieces = Vec::new();
            loop {
                let piece = self.archive.content()?;
                if piece.is_empty() {
                    break;
                }
                pieces.push(piece);
            }
            let content = Content::Whole(pieces);
            return self.submit(dir, name, Work::File { meta, shape, content });
        }
        let (pieces, receiver) = sync_channel(WAITING_PIECES);
        let content = Content::Pieces(receiver);
        self.submit(dir, name, Work::File { meta, shape, content })?;
        loop {
            let piece = self.archive.content()?;
            if piece.is_empty() {
                return Ok(());
            }
            if pieces.send(piece).is_err() {
                // Its writer has failed, or was not started any more.
                self.pool.wait_idle()?;
                return Err(UnpackError::Died);
            }
        }
    }

    /// Tells whether an entry's name, cleaned as text, leads to this place without a link.
    fn is_at(&self, dir: DirId, name: &[u8], entry: &[u8]) -> bool {
        let parts = name::split(entry).unwrap_or_default();
        let place = &self.tree.dir(dir).place;
        parts
            .split_last()
            .is_some_and(|(last, parent)| *last == name && place.is_at(parent))
    }

    fn symlink(
        &mut self,
        dir: DirId,
        name: &[u8],
        entry: &[u8],
        meta: Meta,
        target: Vec<u8>,
    ) -> Result<(), UnpackError> {
        if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
            return Err(UnpackError::entry(entry, EntryFault::BadTarget));
        }
        self.keep(target.len(), entry)?;
        let target: Arc<[u8]> = target.into();
        self.tree.insert(dir, name, Node::Symlink(Arc::clone(&target)));
        // A parent that was resolved before may lead through it now.
        self.last_parent = None;
        self.submit(dir, name, Work::Symlink { meta, target })
    }

    fn hardlink(
        &mut self,
        dir: DirId,
        name: &[u8],
        entry: &[u8],
        meta: Meta,
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let fault = UnpackError::entry(entry, EntryFault::LinkTarget);
        let Some((target_dir, target_name)) = self.find(target) else {
            return Err(fault);
        };
        let first = Name {
            dir: Arc::clone(&self.tree.dir(target_dir).place),
            name: target_name.clone(),
        };
        let (node, names) = match self.tree.get(target_dir, &target_name) {
            Some(Node::File(file)) => {
                let names = file.names.clone().unwrap_or_else(|| LinkTarget::new(first));
                let file = FileNode {
                    names: Some(Arc::clone(&names)),
                    ..file.clone()
                };
                let link = FileNode {
                    record: None,
                    ..file.clone()
                };
                self.tree.insert(target_dir, &target_name, Node::File(file));
                (Node::File(link), names)
            }
            Some(node @ (Node::Symlink(_) | Node::Device(_))) => {
                // A name that is a link itself is not there yet.
                let names = self.awaited.get(&(target_dir, target_name.clone()));
                let names = names.cloned().unwrap_or_else(|| LinkTarget::new(first));
                self.awaited.insert((dir, name.into()), Arc::clone(&names));
                (node.clone(), names)
            }
            Some(Node::Directory(_)) | None => return Err(fault),
        };
        let is_lost = matches!(node, Node::Device(_)) && !self.creation.options.abilities.devices;
        self.tree.insert(dir, name, node);
        self.last_parent = None;
        if is_lost {
            self.creation.note(|compromises| compromises.lost_devices += 1);
            return Ok(());
        }
        self.link_bytes += size_of::<Job>() + meta.held_bytes();
        // The last one's count, whichever writer comes last.
        names.lock().meta = Some(meta);
        let job = self.job(dir, name, Work::Link { target: names });
        self.links.push(job);
        if self.link_bytes > MAX_LINK_BYTES {
            return self.flush_links();
        }
        Ok(())
    }

    /// Finds the directory and the name that a path of the archive means.
    fn find(&self, path: &[u8]) -> Option<(DirId, Box<[u8]>)> {
        let parts = name::split(path).ok()?;
        let (last, parent) = parts.split_last()?;
        let resolved = self.tree.resolve(parent).ok()?;
        resolved
            .missing
            .is_empty()
            .then(|| (resolved.dir, (*last).into()))
    }

    fn leads_to(&self, path: &[u8], dir: DirId, name: &[u8]) -> bool {
        let found = self.find(path);
        found.is_some_and(|(found_dir, found_name)| found_dir == dir && *found_name == *name)
    }

    /// Removes what is under a name, when all that is under way is there.
    fn remove(&mut self, dir: DirId, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        self.flush_links()?;
        let place = Arc::clone(&self.tree.dir(dir).place);
        match node {
            Node::Directory(id) => {
                // Neither by recursion nor with a file open for each level: 2,000 are possible.
                for gone in self.tree.forget_dir(*id).iter().rev() {
                    for (name, node) in &gone.held {
                        self.take_away(&gone.place, name, node)?;
                    }
                    if let Some(parent) = gone.place.parent() {
                        self.unlink(parent, gone.place.name(), AtFlags::REMOVEDIR)?;
                    }
                }
            }
            Node::File(_) | Node::Symlink(_) | Node::Device(_) => self.take_away(&place, name, node)?,
        }
        self.tree.remove(dir, name);
        self.last_parent = None;
        Ok(())
    }

    /// Removes what is no directory; what the tar-split needs the content of is moved aside.
    fn take_away(&mut self, place: &Arc<Dir>, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        let Node::File(file) = node else {
            return self.unlink(place, name, AtFlags::empty());
        };
        if let Some(names) = &file.names {
            names.lock().remove(place, name);
        }
        let Some(record) = file.record else {
            return self.unlink(place, name, AtFlags::empty());
        };
        let ground = &self.creation.ground;
        let dir = ground.dir(place)?;
        let (aside, number) = self.replaced.place_of(record)?;
        rustix::fs::renameat(&*dir, name, aside, number)
            .map_err(|errno| ground.error("move aside", place, name, errno).into())
    }

    fn unlink(&self, place: &Arc<Dir>, name: &[u8], flags: AtFlags) -> Result<(), UnpackError> {
        let ground = &self.creation.ground;
        match rustix::fs::unlinkat(&*ground.dir(place)?, name, flags) {
            // A device that the file system cannot keep.
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(ground.error("remove", place, name, errno).into()),
        }
    }

    /// Makes the hard links that are to be made, after all else that is under way.
    fn flush_links(&mut self) -> Result<(), UnpackError> {
        self.pool.wait_idle()?;
        if self.links.is_empty() {
            return Ok(());
        }
        self.link_bytes = 0;
        self.awaited.clear();
        for job in std::mem::take(&mut self.links) {
            self.pool.submit(job)?;
        }
        self.pool.wait_idle()
    }

    /// A directory that this layer deletes and makes anew shows nothing of the layers below.
    fn mark_remade_directories(&mut self) {
        for id in self.tree.remade_dirs() {
            self.tree.dir_mut(id).is_opaque = true;
        }
    }

    fn make_whiteouts(&self) -> Result<(), UnpackError> {
        for dir in self.tree.live_dirs() {
            for name in dir.bare_whiteouts() {
                if !self.creation.options.abilities.whiteouts {
                    return Err(UnpackError::NoWhiteouts);
                }
                let job = Job {
                    dir: Arc::clone(&dir.place),
                    name: name.into(),
                    work: Work::Whiteout,
                };
                self.pool.submit(job)?;
            }
        }
        self.pool.wait_idle()
    }

    fn finish_directories(&self) -> Result<(), UnpackError> {
        let marks = self.creation.options.abilities.trusted_xattrs;
        for dir in self.tree.live_dirs() {
            let meta = dir.meta.clone().unwrap_or_else(implied_meta);
            let work = Work::FinishDir {
                has_mode: dir.made_mode == Some(meta.mode),
                meta,
                // overlayfs does not look for the mark on the root of a layer.
                is_opaque: dir.is_opaque && marks && dir.place.parent().is_some(),
            };
            let (place, name) = match dir.place.parent() {
                Some(parent) => (parent, dir.place.name()),
                None => (&dir.place, b".".as_slice()),
            };
            let job = Job {
                dir: Arc::clone(place),
                name: name.into(),
                work,
            };
            self.pool.submit(job)?;
        }
        self.pool.wait_idle()
    }

    fn unsettled(&self) -> Unsettled {
        let marks = self.creation.options.abilities.trusted_xattrs;
        let mut unsettled = Unsettled::default();
        for dir in self.tree.live_dirs() {
            let path: PathBuf = dir.place.path();
            match &dir.meta {
                Some(_) => {}
                None if path.as_os_str().is_empty() => unsettled.root_is_implied = true,
                None => unsettled.implied.push(path.clone()),
            }
            if dir.is_opaque && (!marks || dir.place.parent().is_none()) {
                unsettled.opaque.push(path);
            }
        }
        unsettled
    }

    fn submit(&self, dir: DirId, name: &[u8], work: Work) -> Result<(), UnpackError> {
        self.pool.submit(self.job(dir, name, work))
    }

    fn job(&self, dir: DirId, name: &[u8], work: Work) -> Job {
        Job {
            dir: Arc::clone(&self.tree.dir(dir).place),
            name: name.into(),
            work,
        }
    }
}

/// What a directory has that nothing is said of: the same each time that the layer is unpacked.
pub(super) fn implied_meta() -> Meta {
    Meta {
        mode: IMPLIED_MODE,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}
