use super::*;

fn at(milliseconds: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_millis(milliseconds))
}

fn order(number: u64, run: bool, until: u64) -> Input {
    let until_nanoseconds = nanoseconds(at(until));
    Input::Order(Order { number, run, epoch: 7, until_nanoseconds, stop_milliseconds: 3000 })
}

/// One whose program can be executed.
fn core() -> Core {
    let mut core = Core::new();
    assert_eq!(core.step(Input::Found(Ok("/bot".into())), at(0)), []);
    core
}

/// One whose program runs under a lease that ends at 10 s.
fn running() -> Core {
    let mut core = core();
    assert_eq!(core.step(order(1, true, 10_000), at(1)), [Action::Start]);
    assert_eq!(core.step(Input::Started, at(2)), []);
    assert_eq!(core.report().state, State::Running);
    core
}

fn end(core: &mut Core, exit: Exit, now: BootInstant) -> Vec<Action> {
    let mut actions = core.step(Input::Ended(exit), now);
    actions.extend(core.step(Input::Swept, now));
    actions
}

#[test]
fn nothing_runs_without_an_order() {
    let mut core = core();
    assert_eq!(core.step(Input::Connected, at(1)), []);
    assert_eq!(core.step(order(1, false, 10_000), at(2)), []);
    assert_eq!(core.report(), Report { order: 1, epoch: 7, program: "/bot".into(), ..Report::default() });
}

#[test]
fn an_order_whose_fence_is_near_or_over_starts_nothing() {
    for until in [0, 4000, 5000, 5001] {
        assert_eq!(core().step(order(1, true, until), at(5000)), [], "{until}");
    }
}

#[test]
fn what_cannot_be_executed_is_started_when_it_can() {
    let mut core = Core::new();
    assert_eq!(core.step(order(1, true, 10_000), at(1)), []);
    assert_eq!(core.step(Input::Found(Err("no".into())), at(2)), []);
    assert_eq!(core.report().not_executable.as_deref(), Some("no"));
    assert_eq!(core.step(Input::Found(Ok("/bot".into())), at(3)), [Action::Start]);
}

#[test]
fn a_stop_is_sigterm_and_then_sigkill_and_is_answered_when_nothing_is_left() {
    let mut core = running();
    assert_eq!(core.step(order(2, false, 10_000), at(1000)), [Action::Terminate]);
    assert_eq!(core.wakeup(), Some(at(4000)));
    assert_eq!(core.step(Input::Tick, at(3999)), []);
    assert_eq!(core.step(Input::Tick, at(4000)), [Action::Kill]);
    assert_eq!(core.step(Input::Ended(Exit::Signal(9)), at(4001)), [Action::Kill], "what it left behind");
    assert_eq!(core.report().state, State::Stopping, "something may be left");
    assert_eq!(core.step(Input::Swept, at(4002)), []);
    let Report { order, state, ended, .. } = core.report();
    assert_eq!((order, state), (2, State::Idle));
    let at_nanoseconds = nanoseconds(at(4002));
    assert_eq!(ended, Some(End { exit: Exit::Signal(9), told: true, killed: true, at_nanoseconds }));
}

#[test]
fn a_fence_that_nobody_moves_is_kept_with_sigterm_before_it_if_there_is_room() {
    let mut core = running();
    // Of ten seconds: 0.2 s for the kernel, and 1.25 s for the program.
    let terminate = at(10_000 - 200 - 1250);
    assert!(core.wakeup().unwrap().since_boot().abs_diff(terminate.since_boot()) < Duration::from_millis(1));
    let terminate = core.wakeup().unwrap();
    assert_eq!(core.step(Input::Tick, terminate), [Action::Terminate]);
    assert_eq!(core.wakeup(), Some(at(9800)), "not the three seconds of a stop");
    assert_eq!(core.step(Input::Tick, at(9800)), [Action::Kill]);
}

/// It spun, and read no order any more.
#[test]
fn after_the_fence_it_waits_for_an_order_and_for_nothing_else() {
    let mut core = running();
    let now = core.wakeup().unwrap();
    core.step(Input::Tick, now);
    end(&mut core, Exit::Code(0), now);
    assert_eq!(core.wakeup(), None);
}

#[test]
fn a_renewal_moves_the_fence_and_a_lost_connection_does_not() {
    let mut core = running();
    core.step(order(2, true, 20_000), at(9000));
    assert_eq!(core.step(Input::Tick, at(18_000)), []);
    assert_eq!(core.step(Input::Connected, at(18_001)), []);
    assert_eq!(core.report().order, 0, "another agent counts from anew");
    assert_eq!(core.step(Input::Tick, core.wakeup().unwrap()), [Action::Terminate]);
}

#[test]
fn slow_orders_do_not_extend_the_fence() {
    let mut core = running();
    // Written long ago, read now: the supervisor was stopped meanwhile.
    assert_eq!(core.step(order(2, true, 12_000), at(60_000)), [Action::Terminate, Action::Kill]);
}

#[test]
fn an_order_that_has_ended_kills_at_once() {
    let mut core = running();
    assert_eq!(core.step(order(2, false, 0), at(1000)), [Action::Terminate, Action::Kill]);
    assert_eq!(core.step(Input::Tick, at(1010)), []);
    assert_eq!(core.step(Input::Tick, at(1050)), [Action::Kill], "a fork may have raced with it");
}

#[test]
fn a_program_that_was_ended_at_its_fence_is_started_again_by_the_next_order() {
    let mut core = running();
    assert_eq!(core.step(Input::Tick, at(9000)), [Action::Terminate]);
    assert_eq!(core.step(order(2, true, 30_000), at(9001)), [], "it has been told to end");
    assert_eq!(end(&mut core, Exit::Code(0), at(9500)), [Action::Kill, Action::Start]);
}

#[test]
fn a_crash_ends_the_supervisor_with_the_same_status_and_starts_nothing() {
    for (exit, status) in [(Exit::Code(0), 0), (Exit::Code(3), 3), (Exit::Signal(9), 137)] {
        let mut core = running();
        assert_eq!(end(&mut core, exit, at(1000)), [Action::Kill, Action::Exit(status)]);
        assert!(!core.report().ended.unwrap().told);
        assert_eq!(core.step(order(2, true, 20_000), at(1001)), []);
    }
}

#[test]
fn sigterm_ends_the_program_and_then_the_supervisor_with_its_status() {
    let mut core = running();
    assert_eq!(core.step(Input::Terminate, at(1000)), [Action::Terminate]);
    assert_eq!(core.step(order(2, true, 20_000), at(1001)), []);
    assert_eq!(end(&mut core, Exit::Signal(15), at(1500)), [Action::Kill, Action::Exit(143)]);
}

#[test]
fn sigterm_without_a_program_ends_the_supervisor_well() {
    let mut core = core();
    assert_eq!(core.step(Input::Terminate, at(1)), [Action::Exit(0)]);
}

#[test]
fn sigterm_in_the_moment_of_a_start_is_not_forgotten() {
    let mut core = core();
    assert_eq!(core.step(order(1, true, 10_000), at(1)), [Action::Start]);
    assert_eq!(core.step(Input::Terminate, at(2)), []);
    assert_eq!(core.step(Input::Started, at(3)), [Action::Terminate]);
}

#[test]
fn a_former_program_that_is_not_quite_dead_is_waited_for() {
    let mut core = core();
    assert_eq!(core.step(order(1, true, 10_000), at(1)), [Action::Start]);
    assert_eq!(core.step(Input::Busy, at(1)), []);
    assert_eq!(core.step(Input::Tick, core.wakeup().unwrap()), [Action::Start]);
}
