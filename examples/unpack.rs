use std::sync::Arc;
use wharf::fs::{Abilities, Durability};
use wharf::unpack::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let writers = args.get(3).map_or(8, |n| n.parse().unwrap());
    let local = args.get(4).is_none();
    let abilities = Abilities {
        whiteouts: true,
        trusted_xattrs: true,
        user_xattrs: true,
        capabilities: true,
        acls: true,
        devices: true,
        ownership: true,
        special_modes: true,
        hard_link_limit: None,
        negative_times: true,
        nanosecond_times: true,
        directory_rename: true,
        exclusive_mkdir: true,
        writers: 8,
        durability: if local {
            Durability::Syncfs
        } else {
            Durability::Close
        },
    };
    let options = Options {
        abilities: Arc::new(abilities),
        writers,
        user_opaque: false,
        limits: Limits {
            max_layer_bytes: 1 << 40,
            max_entries: 2_000_000,
            max_zstd_window_bytes: 128 << 20,
        },
    };
    std::fs::create_dir_all(&args[2]).unwrap();
    let start = std::time::Instant::now();
    let file = std::fs::File::open(&args[1]).unwrap();
    let progress = Progress::default();
    match unpack(file, args[2].as_ref(), &options, &progress) {
        Ok(u) => println!("{:?} {:.3}s {:?}", u, start.elapsed().as_secs_f64(), progress),
        Err(e) => {
            println!("ERROR {e} {e:?}");
            std::process::exit(1)
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
