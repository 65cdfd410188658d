//! The file systems that the other tests start, and the comparison of trees, are what they are taken for.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use wharf::fs::Abilities;

use crate::support::dfs::{Kind, Shared, able};
use crate::support::process::shell;
use crate::support::tree::{Tolerance, Tree};

const SOME_LIMIT: u32 = 47;

/// Starts one, lets node b read what node a has written, and compares what the probe finds with what is known.
fn both_nodes_see_one_file_system(kind: Kind, expected: impl FnOnce(&mut Abilities)) {
    let shared = Shared::start(kind);
    fs::write(shared.a().join("file"), "from a").expect("write through node a");
    assert_eq!(
        fs::read(shared.b().join("file")).expect("read through node b"),
        b"from a"
    );
    let mut abilities = able();
    expected(&mut abilities);
    let mut found = shared.abilities();
    // Where GlusterFS stops depends on how long the names are.
    if found
        .hard_link_limit
        .is_some_and(|limit| (30..100).contains(&limit))
    {
        found.hard_link_limit = Some(SOME_LIMIT);
    }
    assert_eq!(found, abilities);
}

#[test]
fn gluster_is_one_file_system_on_both_nodes_and_refuses_many_names_for_a_file() {
    both_nodes_see_one_file_system(Kind::Gluster, |abilities| {
        abilities.hard_link_limit = Some(SOME_LIMIT)
    });
}

#[test]
fn moosefs_is_one_file_system_on_both_nodes_and_keeps_whole_seconds_from_1970() {
    both_nodes_see_one_file_system(Kind::MooseFs, |abilities| {
        abilities.negative_times = false;
        abilities.nanosecond_times = false;
    });
}

#[test]
fn two_of_a_kind_run_beside_each_other() {
    for kind in [Kind::Gluster, Kind::MooseFs] {
        let both = [Shared::start(kind), Shared::start(kind)];
        fs::write(both[0].a().join("file"), "of the first").expect("write");
        assert!(!both[1].b().join("file").exists(), "{kind:?}: one file system");
    }
}

/// Fills a directory; each time the same.
fn fill(directory: &Path) -> std::path::PathBuf {
    fs::create_dir(directory).expect("make a directory");
    fs::write(directory.join("file"), "content").expect("write");
    fs::write(directory.join("other"), "content").expect("write");
    fs::hard_link(directory.join("file"), directory.join("name")).expect("link");
    symlink("file", directory.join("link")).expect("link");
    shell(&format!(
        "cd {}; mknod null c 1 3; touch -h -d @1000.5 * .",
        directory.display()
    ));
    directory.to_owned()
}

#[test]
fn trees_that_differ_in_one_thing_are_told_apart_by_it() {
    let work = tempfile::tempdir().expect("a directory");
    let expected = Tree::read(&fill(&work.path().join("expected")));
    type Change = fn(&Path);
    let changes: [(&str, Change); 10] = [
        ("\"file\": mode is 0600, not 0644", |root| {
            fs::set_permissions(root.join("file"), Permissions::from_mode(0o600)).expect("chmod");
        }),
        ("\"file\": uid is 7, not 0", |root| shell_in(root, "chown 7 file")),
        ("\"file\": gid is 7, not 0", |root| shell_in(root, "chgrp 7 file")),
        ("\"other\": mtime is (1000, 0), not (1000, 500000000)", |root| {
            shell_in(root, "touch -d @1000 other");
        }),
        ("\"other\": size is 8, not 7", |root| {
            shell_in(root, "echo >> other; touch -d @1000.5 other")
        }),
        ("\"other\": content is", |root| {
            shell_in(root, "printf CONTENT > other; touch -d @1000.5 other")
        }),
        (
            "\"link\": target is Some(\"other\"), not Some(\"file\")",
            |root| {
                shell_in(root, "ln -sf other link; touch -h -d @1000.5 link .");
            },
        ),
        ("\"null\": device is Some((1, 5)), not Some((1, 3))", |root| {
            shell_in(root, "rm null; mknod null c 1 5; touch -d @1000.5 null .");
        }),
        ("\"name\": linked is None, not Some(\"file\")", |root| {
            shell_in(root, "rm name; cp -p file name; touch -d @1000.5 .");
        }),
        ("\"other\": xattrs is {\"user.\\xFF\": [1]}, not {}", |root| {
            setxattr(root.join("other"), &b"user.\xff"[..], &[1], XattrFlags::empty()).expect("setxattr");
        }),
    ];
    for (number, (line, change)) in changes.into_iter().enumerate() {
        let actual = fill(&work.path().join(number.to_string()));
        assert_eq!(
            Tree::read(&actual).differences(&expected, &Tolerance::default()),
            Vec::<String>::new()
        );
        change(&actual);
        let lines = Tree::read(&actual).differences(&expected, &Tolerance::default());
        assert!(
            lines.iter().any(|found| found.starts_with(line)),
            "{line}: {lines:#?}"
        );
    }
}

fn shell_in(directory: &Path, script: &str) {
    shell(&format!("cd {}; {script}", directory.display()));
}
