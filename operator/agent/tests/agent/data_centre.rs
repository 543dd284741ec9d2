//! A server that programs connect to, as an MTProto library does: it records who is connected, and says nothing.
//!
//! It has a port for each pod. When one connects, the others are looked at: a connection whose end has not arrived by then was
//! open at the same instant.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A connection that was made.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) pod: String,
    pub(crate) to: Option<Instant>,
    /// Bytes that the program sent.
    pub(crate) sent: usize,
}

#[derive(Debug, Default)]
struct Book {
    visits: Vec<Visit>,
    overlaps: Vec<(String, String)>,
}

pub(crate) struct DataCentre {
    doors: Arc<Mutex<Vec<(String, TcpListener)>>>,
    book: Arc<Mutex<Book>>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl DataCentre ===

impl DataCentre {
    pub(crate) fn open() -> Self {
        let (doors, book, closed) = (Arc::default(), Arc::default(), Arc::<AtomicBool>::default());
        let clerk = Clerk { doors: Arc::clone(&doors), book: Arc::clone(&book), guests: Vec::new() };
        let end = closed.clone();
        let thread = Some(thread::spawn(move || clerk.serve(&end)));
        Self { doors, book, closed, thread }
    }

    /// The port of a pod.
    pub(crate) fn door(&self, pod: &str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        self.doors.lock().unwrap().push((pod.to_owned(), listener));
        port
    }

    /// All connections of a pod so far.
    pub(crate) fn visits(&self, pod: &str) -> Vec<Visit> {
        self.book.lock().unwrap().visits.iter().filter(|visit| visit.pod == pod).cloned().collect()
    }

    /// Whether a pod is connected now.
    pub(crate) fn is_in(&self, pod: &str) -> bool {
        self.visits(pod).iter().any(|visit| visit.to.is_none())
    }

    /// The oracle: at no instant were two pods connected.
    pub(crate) fn assert_never_two(&self) {
        let book = self.book.lock().unwrap();
        assert!(book.overlaps.is_empty(), "{book:#?}");
    }
}

impl Drop for DataCentre {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Clerk {
    doors: Arc<Mutex<Vec<(String, TcpListener)>>>,
    book: Arc<Mutex<Book>>,
    /// Connections, by their number in the book.
    guests: Vec<(usize, TcpStream)>,
}

// === impl Clerk ===

impl Clerk {
    fn serve(mut self, closed: &AtomicBool) {
        while !closed.load(Ordering::Relaxed) {
            let doors = self.doors.clone();
            for (pod, door) in doors.lock().unwrap().iter() {
                while let Ok((stream, _)) = door.accept() {
                    self.enter(pod, stream);
                }
            }
            self.look();
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn enter(&mut self, pod: &str, stream: TcpStream) {
        stream.set_nonblocking(true).unwrap();
        self.look();
        let mut book = self.book.lock().unwrap();
        let others: Vec<String> = self.guests.iter().map(|(n, _)| book.visits[*n].pod.clone()).collect();
        book.overlaps.extend(others.into_iter().filter(|other| other != pod).map(|other| (other, pod.to_owned())));
        self.guests.push((book.visits.len(), stream));
        book.visits.push(Visit { pod: pod.to_owned(), to: None, sent: 0 });
    }

    /// Reads what has arrived; ends count when everything before them was read.
    fn look(&mut self) {
        let mut book = self.book.lock().unwrap();
        self.guests.retain_mut(|(number, stream)| {
            let mut bytes = [0; 4096];
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(more) => book.visits[*number].sent += more,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                    Err(_) => break,
                }
            }
            book.visits[*number].to = Some(Instant::now());
            false
        });
    }
}
