//! What the layer has so far, in memory: where each name leads, without asking the file system.
//!
//! The directory is empty at first and nobody else's, so this is the truth; symbolic links of the layer
//! are followed here as a container would follow them, with the layer's root as `/`. (The writers open
//! nothing through a link whatever this says: [`super::place`].)

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::entry::{Device, Meta};
use super::error::EntryFault;
use super::link::LinkTarget;
use super::name;
use super::place::Dir;

/// How many links one name may lead through (Linux: `MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Names a directory of one tree.
pub(super) type DirId = usize;

/// The layer's root.
pub(super) const ROOT: DirId = 0;

/// The names of a layer.
pub(super) struct Tree {
    dirs: Vec<DirNode>,
}

/// A directory of the layer.
pub(super) struct DirNode {
    pub(super) place: Arc<Dir>,
    /// What its own entry says; `None` as long as only what lies below it has come.
    pub(super) meta: Option<Meta>,
    /// The mode that it was made with.
    pub(super) made_mode: Option<u32>,
    pub(super) is_opaque: bool,
    /// It has been replaced by something else, with all that it held.
    pub(super) is_gone: bool,
    /// Names of the layers below that are gone.
    pub(super) whiteouts: HashSet<Box<[u8]>>,
    children: HashMap<Box<[u8]>, Node>,
}

/// A directory that is to be removed.
pub(super) struct GoneDir {
    pub(super) place: Arc<Dir>,
    /// What it holds but for directories.
    pub(super) held: Vec<(Box<[u8]>, Node)>,
}

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Node {
    Directory(DirId),
    Symlink(Arc<[u8]>),
    File(FileNode),
    Device(Device),
}

/// A name of a file.
#[derive(Clone)]
pub(super) struct FileNode {
    pub(super) size: u64,
    /// All its names, if it has several.
    pub(super) names: Option<Arc<LinkTarget>>,
    /// Its number in the tar-split, which leaves the content to the file under this name.
    pub(super) record: Option<u64>,
}

/// Where a path leads: to a directory that is there, and further names that are not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) dir: DirId,
    pub(super) missing: Vec<Box<[u8]>>,
}

impl Tree {
    /// Makes the tree of an empty directory.
    pub(super) fn new(root: Arc<Dir>) -> Self {
        Self {
            dirs: vec![DirNode::new(root)],
        }
    }

    pub(super) fn dir(&self, id: DirId) -> &DirNode {
        &self.dirs[id]
    }

    pub(super) fn dir_mut(&mut self, id: DirId) -> &mut DirNode {
        &mut self.dirs[id]
    }

    /// Returns the directories that are there, each before what lies below it.
    pub(super) fn live_dirs(&self) -> impl Iterator<Item = &DirNode> {
        self.dirs.iter().filter(|dir| !dir.is_gone)
    }

    pub(super) fn get(&self, dir: DirId, name: &[u8]) -> Option<&Node> {
        self.dirs[dir].children.get(name)
    }

    /// Puts something under a name, over what was there.
    pub(super) fn insert(&mut self, dir: DirId, name: &[u8], node: Node) {
        self.dirs[dir].children.insert(name.into(), node);
    }

    /// Forgets what is under a name.
    pub(super) fn remove(&mut self, dir: DirId, name: &[u8]) {
        self.dirs[dir].children.remove(name);
    }

    /// Returns what a directory holds, by the bytes of the names.
    pub(super) fn sorted(&self, dir: DirId) -> std::vec::IntoIter<(&[u8], &Node)> {
        let children = self.dirs[dir].children.iter();
        let mut sorted: Vec<_> = children.map(|(name, node)| (&**name, node)).collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        sorted.into_iter()
    }

    /// Returns the directories whose names this layer also deletes.
    pub(super) fn remade_dirs(&self) -> Vec<DirId> {
        let mut remade = Vec::new();
        for dir in self.live_dirs() {
            for name in &dir.whiteouts {
                if let Some(Node::Directory(id)) = dir.children.get(name) {
                    remade.push(*id);
                }
            }
        }
        remade
    }

    /// Adds a directory.
    pub(super) fn add_dir(&mut self, parent: DirId, name: &[u8], place: Arc<Dir>) -> DirId {
        let id = self.dirs.len();
        self.dirs.push(DirNode::new(place));
        self.insert(parent, name, Node::Directory(id));
        id
    }

    /// Forgets a directory with all that it holds, and returns what that was: each directory before what lies
    /// below it.
    pub(super) fn forget_dir(&mut self, id: DirId) -> Vec<GoneDir> {
        let mut all = Vec::new();
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let dir = &mut self.dirs[id];
            dir.is_gone = true;
            let mut held = Vec::new();
            for (name, node) in std::mem::take(&mut dir.children) {
                match node {
                    Node::Directory(id) => gone.push(id),
                    Node::File(_) | Node::Symlink(_) | Node::Device(_) => held.push((name, node)),
                }
            }
            all.push(GoneDir {
                place: Arc::clone(&dir.place),
                held,
            });
        }
        all
    }

    /// Tells whether something on a path is no directory, links not followed.
    pub(super) fn is_cut_off(&self, path: &[&[u8]]) -> bool {
        let mut dir = ROOT;
        for name in path {
            match self.get(dir, name) {
                Some(Node::Directory(id)) => dir = *id,
                Some(Node::Symlink(_) | Node::File(_) | Node::Device(_)) => return true,
                None => return false,
            }
        }
        false
    }

    /// Finds where a directory's path leads, through the layer's own symbolic links.
    pub(super) fn resolve(&self, path: &[&[u8]]) -> Result<Resolved, EntryFault> {
        let mut stack = vec![ROOT];
        let mut missing: Vec<Box<[u8]>> = Vec::new();
        let mut ahead: VecDeque<Box<[u8]>> = path.iter().map(|part| (*part).into()).collect();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            let dir = stack.last().copied().unwrap_or(ROOT);
            match &*part {
                b"" | b"." => {}
                b".." => {
                    if missing.pop().is_none() && stack.len() > 1 {
                        stack.pop();
                    }
                }
                _ if !missing.is_empty() => missing.push(part),
                _ => match self.get(dir, &part) {
                    None => {
                        name::check(&part)?;
                        missing.push(part);
                    }
                    Some(Node::Directory(id)) => stack.push(*id),
                    Some(Node::Symlink(target)) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(EntryFault::LinkLoop);
                        }
                        if target.starts_with(b"/") {
                            stack.truncate(1);
                        }
                        for part in target.split(|byte| *byte == b'/').rev() {
                            ahead.push_front(part.into());
                        }
                    }
                    Some(Node::File(_) | Node::Device(_)) => return Err(EntryFault::NotBelowDirectory),
                },
            }
        }
        Ok(Resolved {
            dir: stack.last().copied().unwrap_or(ROOT),
            missing,
        })
    }
}

impl DirNode {
    fn new(place: Arc<Dir>) -> Self {
        Self {
            place,
            meta: None,
            made_mode: None,
            is_opaque: false,
            is_gone: false,
            whiteouts: HashSet::new(),
            children: HashMap::new(),
        }
    }

    /// Returns the whiteouts whose name nothing of this layer has.
    pub(super) fn bare_whiteouts(&self) -> impl Iterator<Item = &[u8]> {
        let whiteouts = self.whiteouts.iter().map(|name| &**name);
        whiteouts.filter(|name| !self.children.contains_key(*name))
    }
}
