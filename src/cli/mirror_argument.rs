//! Reads `--mirror`: a URL that may hold a password, which clap would repeat if it refused it.

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// Parses a mirror's URL as a type whose errors do not repeat it, and tells what is wrong with one without repeating it.
#[derive(Clone)]
pub(super) struct MirrorUrlParser<T>(PhantomData<fn() -> T>);

impl<T> Default for MirrorUrlParser<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> TypedValueParser for MirrorUrlParser<T>
where
    T: FromStr<Err: fmt::Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let refused = |why: String| {
            let message = format!("invalid value for '--mirror <URL>': {why}");
            command.clone().error(ErrorKind::ValueValidation, message)
        };
        let text = value
            .to_str()
            .ok_or_else(|| refused("it is not UTF-8".to_owned()))?;
        text.parse().map_err(|error: T::Err| refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::mirrors::MirrorUrl;

    #[test]
    fn a_url_that_names_no_mirror_is_refused_without_its_password() {
        let mirror = Arg::new("mirror")
            .long("mirror")
            .value_delimiter(',')
            .value_parser(MirrorUrlParser::<MirrorUrl>::default());
        let command = Command::new("wharf").arg(mirror);
        let parse = |value: &str| command.clone().try_get_matches_from(["wharf", "--mirror", value]);
        assert!(parse("http://a:5000,https://u:hunter2@b").is_ok());
        let refused = parse("http://a:5000,ftp://u:hunter2@b").unwrap_err();
        assert_eq!(
            (refused.kind(), refused.exit_code()),
            (ErrorKind::ValueValidation, 2)
        );
        let text = refused.to_string();
        assert!(
            text.contains("--mirror") && text.contains("http or https"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn setup_does_not_show_a_password_either() {
        let mirror = Arg::new("mirror")
            .long("mirror")
            .value_parser(MirrorUrlParser::<url::Url>::default());
        let command = Command::new("wharf").arg(mirror);
        let refused = command.try_get_matches_from(["wharf", "--mirror", "http://u:hunter2@b:port"]);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("--mirror") && !text.contains("hunter2"), "{text}");
    }
}
