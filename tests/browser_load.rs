//! The chat page in a room with 200 messages a second: it stays responsive, and its memory stays flat. `HI_TEST_SECONDS=60` for a
//! minute.

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::time::{Duration, Instant};

use browser::{Driver, Page};
use serde_json::{Value, json};
use support::{Client, Server};

const MESSAGES_PER_SECOND: u32 = 200;
/// Messages before the measurement, so that the log is full and all code has run.
const WARM_UP: u32 = 1000;
const LONG_TASK_MS: f64 = 100.0;
/// Slices of the measurement, of which one has to be good.
const SLICES_MAX: u32 = 5;
const HEAP_GROWTH_BYTES: f64 = 1e6;

fn say(witness: &mut Client, numbers: std::ops::Range<u32>) {
    let began = Instant::now();
    for (at, number) in numbers.clone().enumerate() {
        let due = began + Duration::from_secs(1) * at as u32 / MESSAGES_PER_SECOND;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        witness.say("general", &format!("message {number} of a busy room, with https://example.com/{number}"));
        // Its own echo is read, or the server would stop listening.
        if at % 50 == 49 {
            while !witness.json()["Message"].as_str().unwrap().starts_with(&format!("message {number} ")) {}
        }
    }
}

async fn heap_bytes(page: &Page, driver: &Driver) -> f64 {
    page.devtools(driver, "HeapProfiler.collectGarbage", json!({})).await;
    page.devtools(driver, "Runtime.getHeapUsage", json!({})).await["usedSize"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_room_neither_blocks_the_page_nor_fills_its_memory() {
    let seconds: u32 = std::env::var("HI_TEST_SECONDS").ok().map_or(5, |seconds| seconds.parse().unwrap());
    let driver = Driver::start();
    let server = Server::start(&["--rate-limit", "0", "--ping-interval", "1h"]);
    let mut witness = server.join("witness", "general");
    let page = Page::open(&driver, &server, (1000, 700)).await;
    page.enter("ann").await;
    say(&mut witness, 0..WARM_UP);
    page.wait_text("#messages .text", &format!("message {} ", WARM_UP - 1)).await;
    let before = heap_bytes(&page, &driver).await;
    let observe = "window.long = []; new PerformanceObserver((list) => \
         long.push(...list.getEntries().map(({ duration }) => duration))).observe({ entryTypes: ['longtask'] })";
    page.script(observe, vec![]).await;
    let mut next = WARM_UP;
    let mut longest = f64::INFINITY;
    // The time of a task is wall time, and the machine has other work: what the page itself does is in every slice.
    for _ in 0..SLICES_MAX {
        let last = next + seconds * MESSAGES_PER_SECOND;
        say(&mut witness, next..last);
        page.wait_text("#messages .text", &format!("message {} ", last - 1)).await;
        let long: Vec<f64> = serde_json::from_value(page.script("return long.splice(0)", vec![]).await).unwrap();
        println!("{seconds} s: tasks above 50 ms: {long:?}");
        longest = longest.min(long.into_iter().fold(0.0, f64::max));
        if longest < LONG_TASK_MS {
            break;
        }
        next = last;
    }
    let after = heap_bytes(&page, &driver).await;
    let rows = page.script("return document.querySelectorAll('#messages > *').length", vec![]).await;
    println!("heap {before} -> {after} bytes; {rows} rows");
    assert!(rows.as_u64().unwrap() <= 500, "{rows} rows");
    assert!(after - before < HEAP_GROWTH_BYTES, "the heap grew from {before} to {after} bytes");
    assert!(longest < LONG_TASK_MS, "the longest task of the best slice took {longest} ms");
    // It can still be used.
    page.say("hello").await;
    page.wait_text("#messages .own:not(.pending)", "hello").await;
    assert_eq!(page.script("return document.querySelector('#to-end').hidden", vec![]).await, Value::from(true));
    page.client.close().await.unwrap();
}
