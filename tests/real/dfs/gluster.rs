//! GlusterFS: refuses the 48th name of a file, and is as slow as one gets.

use crate::support::archives::Packing;
use crate::support::dfs::{Kind, Shared};

#[test]
fn everything_a_layer_can_hold_is_read_by_the_other_node() {
    super::everything_a_layer_can_hold_is_there(&Shared::start(Kind::Gluster), &[Packing::Gzip]);
}

#[test]
fn layers_on_each_other_look_as_umoci_unpacks_them() {
    super::stacks_look_as_umoci_unpacks_them(&Shared::start(Kind::Gluster));
}

#[test]
fn whiteouts_and_opaque_directories_hide_without_attributes() {
    super::whiteouts_and_opaque_directories_hide_without_attributes(&Shared::start(Kind::Gluster));
}

#[test]
fn names_of_a_file_beyond_the_limit_become_copies() {
    super::names_beyond_the_limit_become_copies(&Shared::start(Kind::Gluster));
}

#[test]
fn a_debian_tree_is_read_by_the_other_node() {
    super::a_debian_tree_is_there(&Shared::start(Kind::Gluster));
}

#[test]
fn a_hundred_layers_are_mounted_as_one_image() {
    super::a_hundred_layers_are_one_image(&Shared::start(Kind::Gluster));
}

#[test]
fn a_volume_that_fills_up_is_told_by_path_and_operation() {
    const VOLUME: usize = 24 << 20;
    super::a_volume_that_fills_up_is_told(&Shared::start_small(Kind::Gluster, VOLUME as u64), VOLUME);
}
