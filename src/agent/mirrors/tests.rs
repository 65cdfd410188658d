//! A mirror on loopback that answers as it is told, and what asking it leads to.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::request::Parts;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::*;
use crate::api::LayerState;
use crate::oci::{Algorithm, ChainId, Digest};

/// Makes an answer from how many requests there were before.
type Script = Box<dyn FnMut(usize, &Parts, &Bytes) -> Response + Send>;

/// A mirror that answers from a script; it is gone when dropped.
pub(in crate::agent) struct ScriptedMirror {
    address: SocketAddr,
    asked: Arc<Mutex<Asked>>,
    server: AbortHandle,
}

struct Asked {
    requests: Vec<(Parts, Bytes)>,
    script: Script,
}

impl ScriptedMirror {
    pub(in crate::agent) async fn start(
        script: impl FnMut(usize, &Parts, &Bytes) -> Response + Send + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(in crate::agent) async fn start_at(
        address: SocketAddr,
        script: impl FnMut(usize, &Parts, &Bytes) -> Response + Send + 'static,
    ) -> Self {
        let asked = Arc::new(Mutex::new(Asked {
            requests: Vec::new(),
            script: Box::new(script),
        }));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            asked,
            server: server.abort_handle(),
        }
    }

    pub(in crate::agent) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::agent) fn url(&self) -> MirrorUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// The bodies of all requests so far.
    pub(in crate::agent) fn bodies(&self) -> Vec<Bytes> {
        let asked = self.asked.lock().unwrap();
        asked.requests.iter().map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for ScriptedMirror {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(asked): State<Arc<Mutex<Asked>>>, request: Parts, body: Bytes) -> Response {
    let mut asked = asked.lock().unwrap();
    let count = asked.requests.len();
    asked.requests.push((request.clone(), body.clone()));
    (asked.script)(count, &request, &body)
}

fn ready() -> Response {
    r#"{"state":"ready","added_later":1}"#.into_response()
}

fn wish() -> LayerWish {
    LayerWish {
        chain_id: ChainId::new(Digest::of(Algorithm::Sha256, b"layer")),
        image: None,
        blob: None,
        wait_ms: 100,
    }
}

fn refused(status: StatusCode) -> Response {
    let body = r#"{"errors":[{"code":"DENIED","message":"not you","detail":null}]}"#;
    (status, body).into_response()
}

async fn closed_port() -> MirrorUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_next_mirror_is_asked_if_one_does_not_answer_and_that_one_rests() {
    let failing = ScriptedMirror::start(|_, _, _| refused(StatusCode::SERVICE_UNAVAILABLE)).await;
    let good = ScriptedMirror::start(|_, _, _| ready()).await;
    let mirrors = Mirrors::new(&[closed_port().await, failing.url(), good.url()]).unwrap();
    for _ in 0..2 {
        let answer = mirrors.layer(&wish()).await.unwrap();
        assert_eq!(answer.state, LayerState::Ready);
    }
    assert_eq!(failing.bodies().len(), 1);
    assert_eq!(good.bodies().len(), 2);
    assert_eq!(
        serde_json::from_slice::<LayerWish>(&good.bodies()[0])
            .unwrap()
            .chain_id,
        wish().chain_id
    );
}

#[tokio::test]
async fn a_mirror_that_rests_is_asked_if_all_others_fail() {
    let mirror = ScriptedMirror::start(|count, _, _| match count {
        0 => refused(StatusCode::BAD_GATEWAY),
        _ => ready(),
    })
    .await;
    let mirrors = Mirrors::new(&[mirror.url(), closed_port().await]).unwrap();
    let error = mirrors.layer(&wish()).await.unwrap_err().to_string();
    assert!(error.starts_with("no mirror answers (127.0.0.1:"), "{error}");
    assert!(error.contains(": not you (status 502"), "{error}");
    mirrors.layer(&wish()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let first = ScriptedMirror::start(|_, _, _| refused(StatusCode::FORBIDDEN)).await;
    let second = ScriptedMirror::start(|_, _, _| ready()).await;
    let mirrors = Mirrors::new(&[first.url(), second.url()]).unwrap();
    let error = mirrors.layer(&wish()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("refuses: not you (status 403 Forbidden)")
    );
    assert_eq!(second.bodies().len(), 0);
}

#[tokio::test]
async fn what_is_no_answer_is_named() {
    let mirror = ScriptedMirror::start(|_, _, _| "<html>".into_response()).await;
    let error = Mirrors::new(&[mirror.url()]).unwrap().layer(&wish()).await;
    assert!(matches!(error, Err(MirrorsError::Nonsense { .. })), "{error:?}");
    let none = Mirrors::new(&[]).unwrap().layer(&wish()).await;
    assert!(matches!(none, Err(MirrorsError::Silent(_))), "{none:?}");
}

#[tokio::test]
async fn a_mirror_that_hangs_is_given_up_in_time_and_not_waited_for_again_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mirrors = Mirrors::new(&[url.parse().unwrap()]).unwrap();
    let start = Instant::now();
    mirrors.layer(&wish()).await.unwrap_err();
    let waited = start.elapsed();
    let bound = Duration::from_millis(wish().wait_ms) + CONNECT_TIMEOUT + ANSWER_MARGIN;
    assert!(waited < bound + Duration::from_secs(5), "{waited:?}");
    let again = Instant::now();
    let error = mirrors.layer(&wish()).await.unwrap_err();
    assert!(again.elapsed() < Duration::from_secs(1));
    assert!(
        error.to_string().contains("did not answer a moment ago"),
        "{error}"
    );
}

#[tokio::test]
async fn user_and_password_are_sent_and_in_no_error() {
    let expected = format!("Basic {}", BASE64_STANDARD.encode("user:hunter2"));
    let mirror = ScriptedMirror::start(move |_, request, _| {
        assert_eq!(request.headers[http::header::AUTHORIZATION], *expected);
        refused(StatusCode::BAD_GATEWAY)
    })
    .await;
    let url = format!("http://user:hunter2@{}", mirror.address());
    let mirrors = Mirrors::new(&[url.parse().unwrap()]).unwrap();
    let error = mirrors.layer(&wish()).await.unwrap_err();
    assert!(error.to_string().contains("not you"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[tokio::test]
async fn news_of_the_image_store_are_asked_for_with_what_is_there_already() {
    let mirror = ScriptedMirror::start(|count, request, body| {
        assert_eq!((&request.method, body.len()), (&Method::GET, 0));
        let expected = match count {
            0 => "/wharf/v1/image-store?agent=one&have=0&wait=50",
            _ => "/wharf/v1/image-store?agent=one&have=7&mirror=a%26b&wait=50",
        };
        assert_eq!(request.uri.to_string(), expected);
        r#"{"sequence":7,"mirror":"a&b","added_later":1}"#.into_response()
    })
    .await;
    let mirrors = Mirrors::new(&[mirror.url()]).unwrap();
    let mut question = ImageStoreQuestion {
        agent: "one".to_owned(),
        have: 0,
        mirror: None,
        wait: 50,
    };
    for _ in 0..2 {
        let answer = mirrors.image_store(&question).await.unwrap();
        assert_eq!((answer.sequence, &*answer.mirror), (7, "a&b"));
        question.have = answer.sequence;
        question.mirror = Some(answer.mirror);
    }
}
