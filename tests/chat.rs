//! The v0 dialect over real sockets.

mod support;

use support::Server;

#[test]
fn a_message_reaches_everyone_in_the_room_and_names_its_sender() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    bob.send_text(r#"{"From":"ann","Message":"hello","Room":"tea","Meta":true}"#);
    for client in [&mut ann, &mut bob] {
        let message = client.expect_message("bob", "hello");
        assert_eq!(message["Meta"], false, "a client can't speak for the room");
    }
}
