//! What a Rust user would write instead, at its best: tokio, hyper, fastwebsockets. The frame is encoded once. A room's
//! task writes it to each socket directly, and messages that have come meanwhile together; only a member whose socket is
//! full gets it through a bounded queue and a task of its own. (docs/performance.md has the alternatives: a task that
//! writes everything takes up to a fifth more.)

use std::cell::{Cell, RefCell};
use std::io::{Cursor, ErrorKind};
use std::rc::{Rc, Weak};

use bytes::Bytes;
use fastwebsockets::{OpCode, Role, WebSocketError, after_handshake_split, upgrade};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{LocalSet, spawn_local};

/// Frames queued per connection, and for the room; a connection with more is dropped, and a publisher waits.
const QUEUE_FRAMES: usize = 1024;
/// Frames written together at most.
const BATCH_FRAMES: usize = 64;

/// The only room.
struct Room {
    members: RefCell<Vec<Weak<Member>>>,
    /// What is published, in order.
    frames: Sender<Bytes>,
}

/// A connection that receives.
struct Member {
    socket: OwnedWriteHalf,
    /// What the socket had no room for.
    queue: Sender<Bytes>,
    /// How much is in the queue, or being written from it.
    queued: Cell<usize>,
}

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
        let (frames, published) = channel(QUEUE_FRAMES);
        let room = Rc::new(Room { members: RefCell::default(), frames });
        spawn_local(fan_out(Rc::clone(&room), published));
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let room = Rc::clone(&room);
            let service = service_fn(move |request| answer(request, Rc::clone(&room)));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            spawn_local(connection.with_upgrades());
        }
    });
}

/// Writes what is published to every member.
async fn fan_out(room: Rc<Room>, mut published: Receiver<Bytes>) {
    let mut frames = Vec::new();
    while published.recv_many(&mut frames, BATCH_FRAMES).await > 0 {
        let batch = if frames.len() == 1 { frames.remove(0) } else { frames.concat().into() };
        frames.clear();
        room.members.borrow_mut().retain(|member| member.upgrade().is_some_and(|member| member.send(&batch)));
    }
}

impl Member {
    /// False if it has left or lags too far behind.
    fn send(&self, bytes: &Bytes) -> bool {
        let mut written = 0;
        if self.queued.get() == 0 {
            match self.socket.try_write(bytes) {
                Ok(count) => written = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        if written == bytes.len() {
            return true;
        }
        self.queued.set(self.queued.get() + 1);
        self.queue.try_send(bytes.slice(written..)).is_ok()
    }

    /// Writes what is queued whenever the socket has room.
    async fn write_queued(self: Rc<Self>, mut queue: Receiver<Bytes>) {
        while let Some(mut bytes) = queue.recv().await {
            while !bytes.is_empty() {
                match self.socket.try_write(&bytes) {
                    Ok(count) => drop(bytes.split_to(count)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if self.socket.writable().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
            self.queued.set(self.queued.get() - 1);
        }
    }
}

async fn answer(mut request: Request<Incoming>, room: Rc<Room>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let receives = request.uri().query() != Some("echo=0");
    let (response, socket) = upgrade::upgrade(&mut request)?;
    spawn_local(async move {
        let Ok(socket) = socket.await else { return };
        // Nothing between us and the socket, as its type was before the upgrade.
        let Ok(parts) = socket.into_inner().into_inner().downcast::<TokioIo<TcpStream>>() else {
            unreachable!("it was accepted as this type")
        };
        let (reading, writing) = parts.io.into_inner().into_split();
        let (queue, queued) = channel(QUEUE_FRAMES);
        let member = Rc::new(Member { socket: writing, queue, queued: Cell::new(0) });
        let writer = receives.then(|| {
            room.members.borrow_mut().push(Rc::downgrade(&member));
            spawn_local(Rc::clone(&member).write_queued(queued))
        });
        read(Cursor::new(parts.read_buf).chain(reading), &room).await;
        // A client that has left must not keep a socket and a task until the next message.
        if let Some(writer) = writer {
            writer.abort();
        }
    });
    Ok(response)
}

/// Publishes each message until the connection ends.
async fn read(reading: impl AsyncRead + Unpin, room: &Room) {
    let (mut reading, _) = after_handshake_split(reading, tokio::io::sink(), Role::Server);
    let mut no_answer = |_| async { Ok::<_, WebSocketError>(()) };
    while let Ok(frame) = reading.read_frame(&mut no_answer).await {
        match frame.opcode {
            OpCode::Text | OpCode::Binary => {
                let opcode =
                    if frame.opcode == OpCode::Text { hi::frame::OpCode::Text } else { hi::frame::OpCode::Binary };
                let frame = hi::frame::encode::frame(opcode, &frame.payload);
                if room.frames.send(frame).await.is_err() {
                    return;
                }
            }
            OpCode::Close => return,
            _ => {}
        }
    }
}
