// SPDX-License-Identifier: GPL-2.0

//! What one Data message, one credit update and one SrcAvail cost each end, for an instruction
//! counter to look at: see `tools/bench-proto`.

use sdp_proto::{
    Config,
    Machine,
    Region,
    Side,
    Transmit, //
};
use std::hint::black_box;

fn config(side: Side) -> Config {
    Config {
        side,
        max_adverts: 4,
        ord: 4,
        ird: 4,
        recv_size: 16384,
        recv_depth: 64,
        send_size: 16384,
        desired_remote: 16384,
    }
}

/// From the user's write to the header of its message.
#[inline(never)]
fn send_one(machine: &mut Machine, bytes: usize) -> Option<Transmit> {
    machine.write(bytes);
    machine.push();
    machine.poll_transmit()
}

/// The fabric's word that the message has arrived.
#[inline(never)]
fn complete_one(machine: &mut Machine, transmit: &Transmit) {
    machine.sent(transmit.tag);
    black_box(machine.take_events());
}

/// A message, and its buffer's return to the ring.
#[inline(never)]
fn receive_one(machine: &mut Machine, message: &[u8]) {
    let received = machine.received(message).expect("violation");
    black_box(received);
    machine.posted(1);
    black_box(machine.take_events());
}

/// The look for something to say, which in most cases there is not.
#[inline(never)]
fn answer_one(machine: &mut Machine) -> Option<Transmit> {
    machine.poll_transmit()
}

/// An empty Data, for which returned buffers are the reason.
#[inline(never)]
fn update_one(machine: &mut Machine) -> Option<Transmit> {
    machine.posted(32);
    machine.poll_transmit()
}

#[inline(never)]
fn updated_one(machine: &mut Machine, message: &[u8]) {
    black_box(machine.received(message).expect("violation"));
    machine.posted(1);
    black_box(machine.take_events());
}

/// From the user's buffer to its SrcAvail.
#[inline(never)]
fn advertise_one(machine: &mut Machine, region: Region) -> Option<Transmit> {
    machine.send_buffer(region).expect("no room");
    machine.poll_transmit()
}

#[inline(never)]
fn advertised_one(machine: &mut Machine, message: &[u8]) {
    black_box(machine.received(message).expect("violation"));
    machine.posted(1);
    black_box(machine.take_events());
}

/// One RDMA Read of all of it, from its start to its completion.
#[inline(never)]
fn fetch_one(machine: &mut Machine) {
    let len = machine.readable().expect("no SrcAvail").region.len;
    black_box(machine.start_read(len));
    machine.read_done(len);
}

/// The RdmaRdCompl.
#[inline(never)]
fn report_one(machine: &mut Machine) -> Transmit {
    machine.poll_transmit().expect("nothing read")
}

/// From the RdmaRdCompl to the buffer's return.
#[inline(never)]
fn finish_one(machine: &mut Machine, message: &[u8]) {
    black_box(machine.received(message).expect("violation"));
    machine.posted(1);
    black_box(machine.take_events());
    black_box(machine.finished().expect("not finished"));
}

fn pair(config: impl Fn(Side) -> Config) -> (Machine, Machine) {
    let mut a = Machine::new(config(Side::Connecting)).expect("config");
    let mut b = Machine::new(config(Side::Accepting)).expect("config");
    let ack = b.hello_received(&a.hello()).expect("hello");
    a.hello_ack_received(&ack).expect("hello ack");
    b.established();
    (a, b)
}

const ROUNDS: u32 = 10_000;

fn data() {
    let (mut a, mut b) = pair(config);
    let mut message = [0; 1016];
    for _ in 0..ROUNDS {
        let transmit = send_one(&mut a, message.len() - 16).expect("no credit");
        message[..16].copy_from_slice(transmit.header.as_bytes());
        complete_one(&mut a, &transmit);
        receive_one(&mut b, &message);
        if let Some(update) = answer_one(&mut b) {
            b.sent(update.tag);
            a.received(update.header.as_bytes()).expect("update");
            a.posted(1);
        }
    }
}

/// Nothing but updates, on a ring that shrinks by as many messages as it grows.
fn update() {
    let (mut a, mut b) = pair(config);
    let mut message = [0; 17];
    for _ in 0..ROUNDS {
        for _ in 0..32 {
            a.write(1);
            a.push();
            let transmit = a.poll_transmit().expect("no credit");
            message[..16].copy_from_slice(transmit.header.as_bytes());
            a.sent(transmit.tag);
            b.received(&message).expect("violation");
            b.take_events();
        }
        let update = update_one(&mut b).expect("nothing to tell");
        b.sent(update.tag);
        updated_one(&mut a, update.header.as_bytes());
    }
}

/// One SrcAvail after another, in Combined mode.
fn src_avail() {
    let (mut a, mut b) = pair(config);
    b.set_zero_copy(true);
    let region = Region {
        len: 1 << 20,
        rkey: 1,
        va: 0x1000,
    };
    let mut message = vec![0; 16384];
    for _ in 0..ROUNDS {
        let advert = advertise_one(&mut a, region).expect("no credit");
        let header = advert.header.as_bytes();
        message[..header.len()].copy_from_slice(header);
        a.sent(advert.tag);
        let len = header.len() + advert.payload as usize;
        advertised_one(&mut b, &message[..len]);
        fetch_one(&mut b);
        let report = report_one(&mut b);
        b.sent(report.tag);
        finish_one(&mut a, report.header.as_bytes());
    }
}

fn main() {
    data();
    update();
    src_avail();
}
