//! What a Rust user would write instead: tokio, hyper, fastwebsockets, a task and a bounded queue per connection. The
//! frame is encoded once, and each task writes the shared bytes: no avoidable work per member.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use fastwebsockets::{OpCode, Role, WebSocketError, after_handshake_split, upgrade};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Frames queued per connection; with more, the connection is dropped.
const QUEUE_FRAMES: usize = 1024;

/// The members of the only room.
type Members = Rc<RefCell<Vec<Sender<Bytes>>>>;

/// Serves on one thread until it is killed, on a free port that it prints.
pub(crate) fn serve() {
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    hi::os::pin_to_core(hi::os::allowed_cores().expect("the kernel reports the cores")[0]).expect("the first core");
    let listener = hi::os::bind_shards(([127, 0, 0, 1], 0).into(), false, 1).expect("a free port").remove(0);
    println!("{}", listener.local_addr().expect("it is bound"));
    listener.set_nonblocking(true).expect("a socket");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let members = Members::default();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let members = Rc::clone(&members);
            let service = service_fn(move |request| answer(request, Rc::clone(&members)));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            spawn_local(connection.with_upgrades());
        }
    });
}

async fn answer(mut request: Request<Incoming>, members: Members) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let receives = request.uri().query() != Some("echo=0");
    let (response, socket) = upgrade::upgrade(&mut request)?;
    spawn_local(async move {
        let Ok(socket) = socket.await else { return };
        let (reading, mut writing) = tokio::io::split(socket.into_inner());
        let writer = receives.then(|| {
            let (sender, mut queue) = channel::<Bytes>(QUEUE_FRAMES);
            members.borrow_mut().push(sender);
            spawn_local(async move {
                while let Some(frame) = queue.recv().await {
                    if writing.write_all(&frame).await.is_err() {
                        break;
                    }
                }
            })
        });
        read(reading, &members).await;
        // A client that has left must not keep a socket and a task until the next message.
        writer.inspect(JoinHandle::abort);
    });
    Ok(response)
}

/// Sends each message to every member until the connection ends.
async fn read(reading: impl AsyncRead + Unpin, members: &Members) {
    let (mut reading, _) = after_handshake_split(reading, tokio::io::sink(), Role::Server);
    let mut no_answer = |_| async { Ok::<_, WebSocketError>(()) };
    while let Ok(frame) = reading.read_frame(&mut no_answer).await {
        match frame.opcode {
            OpCode::Text | OpCode::Binary => {
                let opcode =
                    if frame.opcode == OpCode::Text { hi::frame::OpCode::Text } else { hi::frame::OpCode::Binary };
                let frame = hi::frame::encode::frame(opcode, &frame.payload);
                members.borrow_mut().retain(|member| member.try_send(frame.clone()).is_ok());
            }
            OpCode::Close => return,
            _ => {}
        }
    }
}
