//! Names of several servers: of all clients that want one at the same time, one gets it, wherever they are.

#[path = "support/broker.rs"]
mod broker;
mod support;

use broker::Broker;
use serde_json::{Value, json};
use support::{Client, Server, reset};

/// Clients that want the same name at once.
const CLIENTS: usize = 100;

/// All ask for the room at the same time. Returns the number of the one that gets in; the others are told that the name is taken.
fn join_at_once(clients: &mut [Client]) -> usize {
    for client in &mut *clients {
        client.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
    }
    let answers: Vec<Value> = clients.iter_mut().map(Client::json).collect();
    let joined: Vec<usize> = (0..clients.len()).filter(|number| answers[*number]["Op"] == "ok").collect();
    let taken = answers.iter().filter(|answer| answer["Code"] == "name_taken").count();
    assert_eq!((joined.len(), taken), (1, clients.len() - 1), "{answers:?}");
    joined[0]
}

#[test]
fn of_a_hundred_clients_with_one_name_on_three_servers_one_gets_it_and_the_next_when_it_leaves() {
    let broker = Broker::start();
    let nodes: Vec<Server> = (0..3).map(|_| Server::start(&["--cluster", &broker.url()])).collect();
    let (mut watcher, _) = nodes[0].join_v1("watcher", "tea");
    for name in ["ann", "bob", "cid"] {
        let on = |number: usize| nodes[number % nodes.len()].v1(&format!("username={name}")).0;
        let mut clients: Vec<Client> = (0..CLIENTS).map(on).collect();
        for round in 0..4 {
            let first = join_at_once(&mut clients);
            let mut holder = clients.swap_remove(first);
            match round {
                0 => holder.close(),
                1 => reset(holder.socket.into_inner()),
                2 => holder.send_text(&json!({"Op": "leave", "Room": "tea"}).to_string()),
                // Nobody may have it as long as it stays.
                _ => {
                    for client in &mut clients {
                        let refused = client.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
                        assert_eq!(refused["Code"], "name_taken", "{refused}");
                    }
                    break;
                }
            }
            while watcher.json()["Message"] != format!("User {name} left channel.") {}
        }
    }
}
