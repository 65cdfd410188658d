//! Which images have a stack: how a layer that somebody misses is found again.
//!
//! `chains/<algorithm>/<hex>/images/<digest of the text>` holds a text, `<host>/<name>@<manifest's digest>`, written once
//! when a mirror has read the image's config. Some clients say no more of a layer than its ChainID.

use crate::fs::{self, FsError, FsErrorKind};
use crate::oci::image_name::ImageName;
use crate::oci::{Algorithm, ChainId, Digest};

use super::Store;
use super::layout::file_name;

/// How many images of a stack are remembered: one would do, if upstream never lost any.
const MAX_IMAGES: usize = 8;

impl Store {
    /// Remembers that an image, named by digest, has a stack.
    ///
    /// # Errors
    /// Any errno.
    pub fn note_image(&self, chain_id: &ChainId, image: &ImageName) -> Result<(), FsError> {
        let dir = self.layout().chain_form(chain_id, IMAGES);
        let text = image.to_string();
        let name = file_name(&Digest::of(Algorithm::Sha256, text.as_bytes()));
        let known = fs::list(&dir)?;
        if known.contains(&name) || known.len() >= MAX_IMAGES {
            return Ok(());
        }
        fs::make_dirs(&dir)?;
        // A reader that sees a part of it takes it for none, by the digest.
        match fs::create_new(&dir.join(name), text.as_bytes()) {
            Err(error) if error.kind() == FsErrorKind::Exists => Ok(()),
            created => created,
        }
    }

    /// Returns images that have a stack, by digest.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn images_with(&self, chain_id: &ChainId) -> Result<Vec<ImageName>, FsError> {
        let dir = self.layout().chain_form(chain_id, IMAGES);
        let mut images = Vec::new();
        for name in fs::list(&dir)? {
            let text = fs::read(&dir.join(&name))?.unwrap_or_default();
            // The beginning of a name may be another name.
            if name != file_name(&Digest::of(Algorithm::Sha256, &text)) {
                continue;
            }
            images.extend(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()));
        }
        Ok(images)
    }
}

/// The directory beside the forms of a layer.
const IMAGES: &str = "images";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_a_stack_are_remembered_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let chain_id = ChainId::new(digest("chain"));
        assert_eq!(store.images_with(&chain_id).unwrap(), []);
        let image: ImageName = format!("ghcr.io/a/b@{}", digest("m")).parse().unwrap();
        for _ in 0..2 {
            store.note_image(&chain_id, &image).unwrap();
            assert_eq!(
                store.images_with(&chain_id).unwrap(),
                std::slice::from_ref(&image)
            );
        }
        let dir = store.layout().chain_form(&chain_id, IMAGES);
        let torn = dir.join(file_name(&digest("a whole name")));
        std::fs::write(&torn, "ghcr.io/a/b").unwrap();
        assert_eq!(
            store.images_with(&chain_id).unwrap(),
            std::slice::from_ref(&image)
        );
        std::fs::remove_file(&torn).unwrap();
        for number in 0..2 * MAX_IMAGES {
            let image = format!("docker.io/library/x{number}@{}", digest("m"));
            store.note_image(&chain_id, &image.parse().unwrap()).unwrap();
        }
        assert_eq!(store.images_with(&chain_id).unwrap().len(), MAX_IMAGES);
        assert!(store.images_with(&chain_id).unwrap().contains(&image));
        assert_eq!(store.chain(&chain_id).unwrap(), None);
        assert_eq!(store.chains().unwrap(), []);
    }
}
