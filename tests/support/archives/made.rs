//! Layers made by hand, byte by byte.

use super::tar::{Entry, Tar};

/// A capability in the form of `security.capability`: version 2, cap_net_raw effective and permitted.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Returns a POSIX ACL as the kernel keeps it: u::rwx, u:1234:r-x, g::r-x, m::r-x, o::r--.
fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in [
        (1_u16, 7_u16, nobody),
        (2, 5, 1234),
        (4, 5, nobody),
        (16, 5, nobody),
        (32, 4, nobody),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Everything that a layer can hold, but for sparse files, which GNU tar writes, and whiteouts: [`stack`].
pub fn everything() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.global("comment", "no entry of its own");
    modes_and_owners(&mut tar);
    links(&mut tar);
    special_files(&mut tar);
    attributes(&mut tar);
    names(&mut tar);
    order(&mut tar);
    let mut bytes = tar.finished();
    // Writers fill up to their block size, and the DiffID is over that too.
    bytes.resize(bytes.len().next_multiple_of(10_240), 0);
    bytes
}

fn modes_and_owners(tar: &mut Tar) {
    tar.add(Entry::directory("bin").mtime(1_500_000_000, 987_654_321));
    tar.add(Entry::file("bin/su", "setuid").mode(0o4755));
    tar.add(Entry::file("bin/wall", "setgid").mode(0o2755).owner(0, 5));
    // A change of owner takes these bits away: it has to come first.
    tar.add(Entry::file("bin/both", "both").mode(0o6711).owner(1000, 1000));
    tar.add(Entry::file("bin/none", "none").mode(0));
    tar.add(Entry::directory("tmp").mode(0o1777));
    tar.add(Entry::directory("mail").mode(0o2775).owner(8, 8));
    tar.add(Entry::file("mail/in", "not of mail's group by inheritance").owner(7, 7));
    tar.add(Entry::directory("closed").mode(0).owner(1, 1));
    tar.add(Entry::file("closed/file", "in a closed directory"));
    tar.add(Entry::file("far", "high numbers").owner(3_000_000_000, 4_294_967_294));
    tar.add(Entry::file("precise", "to the nanosecond").mtime(1_234_567_890, 123_456_789));
    tar.add(Entry::file("epoch", "at 0").mtime(0, 0));
    tar.add(Entry::file("future", "after 2038").mtime(4_000_000_000, 1));
    for length in [0, 1, 511, 512, 513, 3 << 20] {
        tar.add(Entry::file(format!("sizes/{length}"), vec![b'x'; length]));
    }
}

fn links(tar: &mut Tar) {
    tar.add(Entry::symlink("links/relative", "../bin/su").mtime(1_400_000_000, 5));
    tar.add(Entry::symlink("links/absolute", "/etc/passwd"));
    tar.add(Entry::symlink("links/dangling", "nowhere").owner(12, 34));
    tar.add(Entry::symlink("links/outside", "../../../../../tmp"));
    tar.add(Entry::symlink("links/long", "t/".repeat(200)));
    tar.add(Entry::symlink("links/long-gnu", "g/".repeat(200)).gnu());
    tar.add(
        Entry::file("links/one", "of three names")
            .mode(0o600)
            .mtime(1_300_000_000, 7),
    );
    tar.add(
        Entry::hard_link("links/two", "links/one")
            .mode(0o600)
            .mtime(1_300_000_000, 7),
    );
    tar.add(
        Entry::hard_link("elsewhere/three", "./links/one")
            .mode(0o600)
            .mtime(1_300_000_000, 7),
    );
}

fn special_files(tar: &mut Tar) {
    tar.add(Entry::directory("dev"));
    tar.add(Entry::device(b'3', "dev/null", 1, 3).mode(0o666));
    tar.add(Entry::device(b'4', "dev/loop0", 7, 0).mode(0o660).owner(0, 6));
    tar.add(Entry::device(b'3', "dev/high", 240, 70_000).mode(0o600));
    tar.add(Entry::fifo("dev/fifo").mode(0o622).mtime(1_200_000_000, 0));
}

fn attributes(tar: &mut Tar) {
    tar.add(
        Entry::file("bin/ping", "raw sockets")
            .mode(0o755)
            .owner(0, 9)
            .xattr("security.capability", CAPABILITY),
    );
    // GlusterFS lost one in five of those to whose bytes nothing but the attribute and the time came after.
    for number in 0..50 {
        let file = Entry::file(format!("capable/{number}"), "raw sockets").mode(0o755);
        tar.add(file.xattr("security.capability", CAPABILITY));
    }
    tar.add(
        Entry::file("attributes/user", "")
            .xattr("user.text", "some text")
            .xattr("user.binary", b"\0=\n\xff\0")
            .xattr("user.empty", ""),
    );
    tar.add(Entry::directory("attributes").xattr("user.of.directory", "yes"));
    // The middle digit of the mode is the mask of the list.
    tar.add(
        Entry::file("attributes/acl", "for 1234 too")
            .mode(0o754)
            .xattr("system.posix_acl_access", acl()),
    );
    tar.add(Entry::directory("attributes/default").xattr("system.posix_acl_default", acl()));
}

fn names(tar: &mut Tar) {
    let long = |letter: &str| format!("long/{0}/{0}/{0}/end", letter.repeat(255));
    tar.add(Entry::file(long("p"), "by PAX"));
    tar.add(Entry::file(long("g"), "by GNU").gnu());
    let target = long("p");
    tar.add(Entry::hard_link(long("h"), &target));
    tar.add(Entry::file(b"odd/\xff\xfe latin\xe9", "no UTF-8"));
    tar.add(Entry::file(
        [b"odd/\xfe".repeat(60), b"/end".to_vec()].concat(),
        "no UTF-8, and long",
    ));
    tar.add(Entry::directory(b"odd/dir\x80"));
    for name in [
        "odd/a\nline",
        "odd/ space ",
        "odd/back\\slash",
        "odd/-dash",
        "odd/*?[",
        "odd/.whale",
        "odd/ümläut",
    ] {
        tar.add(Entry::file(name, name));
    }
    tar.add(Entry::file("./dot/./path//twice", "not normal").mode(0o640));
    tar.add(Entry::directory("empty").mode(0o700));
}

fn order(tar: &mut Tar) {
    tar.add(Entry::file("twice/file", "the first is longer"));
    tar.add(Entry::file("twice/file", "the second").mode(0o600));
    tar.add(Entry::symlink("twice/was-link", "file"));
    tar.add(Entry::file("twice/was-link", "no link any more"));
    tar.add(Entry::file("twice/was-file", "a file"));
    tar.add(Entry::symlink("twice/was-file", "file"));
    tar.add(Entry::file("twice/linked", "has two names"));
    tar.add(Entry::hard_link("twice/other", "twice/linked"));
    tar.add(Entry::file("twice/linked", "has one name again"));
    tar.add(Entry::directory("again").mode(0o700).mtime(1, 0));
    tar.add(Entry::file("again/file", "between"));
    tar.add(
        Entry::directory("again")
            .mode(0o711)
            .owner(3, 4)
            .mtime(1_100_000_000, 9),
    );
    tar.add(Entry::file("later/file", "before its directory"));
    tar.add(Entry::directory("later").mode(0o750).mtime(1_000_000_000, 0));
    tar.add(Entry::file("no/parent/has/an/entry", ""));
}

/// Layers on each other, the bottom one first: whiteouts, opaque directories, and what changes its kind.
pub fn stack() -> Vec<Vec<u8>> {
    vec![bottom(), removals(), additions(), returns()]
}

fn tar_of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut tar = Tar::default();
    for entry in entries {
        tar.add(entry);
    }
    tar.finished()
}

fn bottom() -> Vec<u8> {
    let mut entries = vec![Entry::directory("./").mtime(1_500_000_000, 0)];
    let directories = [
        "kept",
        "opaque",
        "opaque/sub",
        "opaque/sub/deeper",
        "opaque/other",
        "gone",
        "replaced",
        "replaced/sub",
        "dir-to-file",
        "implied",
        "implied/sub",
        "implied/sub/deeper",
        "twice-opaque",
    ];
    for (number, directory) in directories.iter().enumerate() {
        let number = u32::try_from(number).expect("a small number");
        // Each with a mode, an owner and a time of its own: a layer above may not have to name them.
        let entry = Entry::directory(directory)
            .mode(0o700 | number)
            .owner(number.into(), 1);
        entries.push(entry.mtime(1_500_000_000 + i64::from(number), 0));
        entries.push(Entry::file(format!("{directory}/one"), "one of the bottom"));
        entries.push(Entry::file(format!("{directory}/two"), "two of the bottom"));
    }
    entries.push(Entry::file("removed", "by a whiteout"));
    entries.push(Entry::file("file-to-dir", "a file"));
    entries.push(Entry::symlink("link-to-dir", "kept"));
    entries.push(Entry::symlink("removed-link", "kept"));
    tar_of(entries)
}

fn removals() -> Vec<u8> {
    tar_of([
        Entry::file(".wh.removed", ""),
        Entry::file(".wh.removed-link", ""),
        Entry::file(".wh.gone", ""),
        // None of these directories has an entry: they look as below.
        Entry::file("kept/.wh.one", ""),
        Entry::file("implied/sub/.wh.one", ""),
        Entry::file("kept/.wh.never-was", ""),
        // The whiteout comes after what the layer adds: it is for the layers below all the same.
        Entry::directory("opaque").mode(0o750).mtime(1_600_000_001, 0),
        Entry::file("opaque/new", "beside what is hidden"),
        Entry::file("opaque/.wh..wh..opq", ""),
        Entry::file("twice-opaque/.wh..wh..opq", ""),
        Entry::file("twice-opaque/three", "three"),
        Entry::file(".wh.replaced", ""),
        Entry::directory("replaced").mode(0o711).mtime(1_600_000_002, 0),
        Entry::file("replaced/fresh", "in a new directory of the old name"),
        Entry::file("dir-to-file", "a file"),
        Entry::directory("file-to-dir").mtime(1_600_000_003, 0),
        Entry::file("file-to-dir/inside", ""),
        Entry::directory("link-to-dir").mtime(1_600_000_004, 0),
        Entry::file("link-to-dir/inside", ""),
    ])
}

fn additions() -> Vec<u8> {
    tar_of([
        // The same directories exist below the opaque one, with other content.
        Entry::directory("opaque/sub").mode(0o755).mtime(1_600_000_005, 0),
        Entry::file("opaque/sub/three", "three"),
        Entry::directory("opaque/sub/deeper").mtime(1_600_000_006, 0),
        Entry::directory("replaced/sub").mtime(1_600_000_007, 0),
        Entry::file("twice-opaque/four", "four"),
        Entry::file("implied/sub/deeper/.wh..wh..opq", ""),
        Entry::file("implied/sub/deeper/new", "new"),
    ])
}

fn returns() -> Vec<u8> {
    tar_of([
        Entry::file("removed", "is back"),
        Entry::directory("gone").mode(0o701).mtime(1_600_000_008, 0),
        Entry::file("gone/three", "three"),
        Entry::file("kept/one", "is back"),
        Entry::directory("twice-opaque").mtime(1_600_000_009, 0),
        Entry::file("twice-opaque/.wh..wh..opq", ""),
        Entry::file("twice-opaque/five", "five"),
        // An opaque one that makes again, in the same layer, what it hides.
        Entry::directory("opaque").mode(0o770).mtime(1_600_000_010, 0),
        Entry::file("opaque/.wh..wh..opq", ""),
        Entry::directory("opaque/sub").mode(0o777).mtime(1_600_000_011, 0),
        Entry::file("opaque/sub/four", "four"),
    ])
}

/// A file and so many more names for it, each with the file's metadata, as archivers write them.
pub fn linked(links: u32) -> Vec<u8> {
    let of_file = |entry: Entry| entry.mode(0o4755).owner(1000, 1000).mtime(1_400_000_000, 0);
    let file = of_file(Entry::file("busybox", b"many names".repeat(1000)));
    let file = file.xattr("user.kept", "by each copy");
    let link = |number| of_file(Entry::hard_link(format!("bin/{number}"), "busybox"));
    tar_of(
        [file, Entry::directory("bin")]
            .into_iter()
            .chain((0..links).map(link)),
    )
}

/// Two layers of an image that no other number's is: so many files, and changes to them.
pub fn changed(number: u32, files: u32) -> Vec<Vec<u8>> {
    let content = |file: u32| format!("{number} {file} ").repeat(200);
    let owned = |entry: Entry| entry.owner(1000, 1000).mtime(1_500_000_000, 0);
    let file = |file: u32| owned(Entry::file(format!("d{}/f{file}", file % 10), content(file)));
    let links = (0..20).map(|link| owned(Entry::hard_link(format!("d0/l{link}"), "d0/f0")));
    let root = || Entry::directory("./").mtime(1_500_000_000, 0);
    let directories = || (0..10).map(|number| owned(Entry::directory(format!("d{number}"))));
    let bottom = [root()]
        .into_iter()
        .chain(directories())
        .chain((0..files).map(file));
    let top = [root()]
        .into_iter()
        .chain(directories())
        .chain((0..files).map(|number| match number % 5 {
            0 => Entry::file(format!("d{}/.wh.f{number}", number % 10), ""),
            _ => owned(Entry::file(format!("d{}/n{number}", number % 10), content(number)).mode(0o4755)),
        }));
    vec![tar_of(bottom.chain(links)), tar_of(top)]
}

/// A layer that only adds `numbers/<number>` and replaces `last`.
pub fn tiny(number: u32) -> Vec<u8> {
    tar_of([
        Entry::file(format!("numbers/{number}"), number.to_string()),
        Entry::file("last", number.to_string()),
    ])
}

/// So many bytes in files of 64 KiB.
pub fn filling(bytes: usize) -> Vec<u8> {
    const FILE: usize = 64 << 10;
    let file = |number| Entry::file(format!("full/{number}"), vec![b'x'; FILE]);
    tar_of(
        [Entry::directory("full")]
            .into_iter()
            .chain((0..bytes / FILE).map(file)),
    )
}
