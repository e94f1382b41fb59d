//! The form: typing, and what the service says while one types.

use crate::model::grammar::GrammarError;
use crate::model::id::MappingId;
use crate::model::identity::Identity;
use crate::model::mapping::{Mapping, Protocol};
use crate::model::paste::read_paste;
use crate::model::profile::WrittenMapping;
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::SafeText;

use super::super::keymap::{Action, Key};
use super::super::state::form::{Field, Form, Probe, Verdict, Who};
use super::super::state::{Overlay, Severity, State};
use super::{Asked, Effect, actions, ask, change, dialogs, note, say};

/// The service is asked when typing has paused for so long.
const PAUSE_MS: u64 = 120;

fn form(state: &mut State) -> Option<&mut Form> {
    match &mut state.overlay {
        Overlay::Form(form) => Some(form),
        _ => None,
    }
}

/// Carries out what a key of the form does.
pub(super) fn perform(state: &mut State, action: Action, effects: &mut Vec<Effect>) {
    let now_ms = state.now_ms;
    let Some(form) = form(state) else { return };
    match action {
        Action::FormCancel => state.overlay = Overlay::None,
        Action::FormNext => {
            if form.focus == Field::Host && form.chosen.is_some() {
                take_container(form, now_ms);
            } else {
                go(form, 1, effects);
            }
        }
        Action::FormPrevious => go(form, -1, effects),
        Action::FormDown | Action::FormUp => {
            let by = if action == Action::FormDown { 1 } else { -1 };
            if form.focus == Field::Host && choose(form, by) {
                return;
            }
            go(form, by, effects);
        }
        Action::TakeFreePort => {
            if let Some(port) = form.free_port() {
                form.take_port(port);
                touched(form, now_ms);
            }
        }
        Action::FormSave => {
            if form.focus == Field::Host && form.chosen.is_some() {
                take_container(form, now_ms);
            } else {
                save(state, effects);
            }
        }
        _ => {}
    }
}

/// Moves in the list of containers; false at its ends.
fn choose(form: &mut Form, by: isize) -> bool {
    let rows = form.matching().len();
    let next = match form.chosen {
        None if by > 0 => 0,
        None => return false,
        Some(0) if by < 0 => {
            form.chosen = None;
            return true;
        }
        Some(at) => at.saturating_add_signed(by),
    };
    if next >= rows {
        return false;
    }
    form.chosen = Some(next);
    true
}

/// Takes the chosen container over, and its first port where none is typed.
fn take_container(form: &mut Form, now_ms: u64) {
    let chosen = form.chosen.take().and_then(|at| form.matching().get(at).map(|container| (*container).clone()));
    let Some(container) = chosen else { return };
    form.take_container(&container);
    form.focus = Field::TargetPort;
    touched(form, now_ms);
}

/// Goes to another field. Leaving the target's port tries the target, since the user asked for it by that.
fn go(form: &mut Form, by: isize, effects: &mut Vec<Effect>) {
    let fields = form.fields();
    let at = fields.iter().position(|field| *field == form.focus).unwrap_or(0);
    let left = form.focus;
    let count = fields.len();
    form.focus = fields[at.wrapping_add_signed(by + isize::try_from(count).unwrap_or(0)) % count];
    form.chosen = None;
    if left == Field::TargetPort {
        probe(form, effects);
    }
}

fn probe(form: &mut Form, effects: &mut Vec<Effect>) {
    if form.protocol != Protocol::Tcp {
        return;
    }
    let Some(target) = form.target() else { return };
    let text = target.to_string();
    if form.probe.as_ref().is_some_and(|probe| probe.target == text) {
        return;
    }
    form.probe = Some(Probe { target: text.clone(), results: None, reason: None });
    effects.push(ask(Asked::Probe(text), Request::Probe { target, protocol: form.protocol }));
}

/// Something was changed: what the service said no longer counts, and it is asked once typing pauses.
fn touched(form: &mut Form, now_ms: u64) {
    form.generation += 1;
    form.ask_at_ms = Some(now_ms + PAUSE_MS);
    form.save_error = None;
    let listen = form.listen_text();
    if form.refused_busy.as_ref().is_some_and(|refused| *refused != listen) {
        form.refused_busy = None;
    }
    let target = form.target().map(|target| target.to_string());
    if form.probe.as_ref().is_some_and(|probe| Some(&probe.target) != target.as_ref()) {
        form.probe = None;
    }
}

/// A key that no binding of the form takes.
pub(super) fn typed(state: &mut State, key: Key) {
    let now_ms = state.now_ms;
    let Some(form) = form(state) else { return };
    let by = match key {
        Key::Left | Key::Char('h') => -1,
        Key::Right | Key::Char('l' | ' ') => 1,
        _ => 0,
    };
    match form.focus {
        Field::Who if by != 0 => {
            const CHOICES: [Who; 3] = [Who::ThisMachine, Who::ThisNetwork, Who::One];
            form.who = turned(&CHOICES, form.who, by);
            touched(form, now_ms);
        }
        Field::Protocol if by != 0 => {
            // SCTP is chosen in the file or on the palette: hardly a kernel has it.
            const CHOICES: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
            form.protocol = turned(&CHOICES, form.protocol, by);
            if !form.identity.goes_with(form.protocol) {
                form.identity = Identity::None;
            }
            touched(form, now_ms);
        }
        Field::Identity if by != 0 => {
            form.identity = turned(&form.identities(), form.identity, by);
            touched(form, now_ms);
        }
        field => {
            let is_host = field == Field::Host;
            if let Some(input) = form.input() {
                let before = input.value().to_owned();
                if dialogs::edit(input, key) && input.value() != before {
                    if is_host {
                        form.chosen = None;
                    }
                    touched(form, now_ms);
                }
            }
        }
    }
}

fn turned<T: Copy + PartialEq>(choices: &[T], from: T, by: isize) -> T {
    let at = choices.iter().position(|choice| *choice == from).unwrap_or(0);
    choices[at.saturating_add_signed(by).min(choices.len() - 1)]
}

/// A mapping, or those of a `docker run -p` or `ssh -L` line.
fn mappings_in(line: &str) -> Option<Result<Vec<WrittenMapping>, GrammarError>> {
    match line.parse::<Mapping>() {
        Ok(mapping) => Some(Ok(vec![WrittenMapping::from(mapping)])),
        Err(_) => read_paste(line),
    }
}

/// Pasted with no form open: what makes a mapping opens it, filled in.
pub(super) fn pasted_on_screen(state: &mut State, line: &str, effects: &mut Vec<Effect>) {
    if let Some(read) = mappings_in(line) {
        if read.is_ok() {
            actions::open_form(state, Form::new(), effects);
        }
        take_read(state, read);
    }
}

/// Pasted text: mappings, or a piece for the field under the cursor.
pub(super) fn pasted(state: &mut State, line: &str) {
    match mappings_in(line) {
        None => {
            for c in line.chars() {
                typed(state, Key::Char(c));
            }
        }
        Some(read) => take_read(state, read),
    }
}

fn take_read(state: &mut State, read: Result<Vec<WrittenMapping>, GrammarError>) {
    match read {
        Ok(mappings) => take_mappings(state, &mappings),
        Err(error) => say(state, Severity::Error, &error.to_string()),
    }
}

/// The first one fills the form.
fn take_mappings(state: &mut State, mappings: &[WrittenMapping]) {
    let now_ms = state.now_ms;
    let Some(form) = form(state) else { return };
    let Some(first) = mappings.first() else { return };
    let (Ok(listen), Ok(target)) = (first.listen.parse(), first.target.parse()) else { return };
    form.set(&listen, &target, first.protocol.unwrap_or_default());
    if let Some(name) = &first.name {
        form.name = name.clone().into();
    }
    touched(form, now_ms);
    let text = match mappings.len() {
        1 => "filled in from what was pasted".to_owned(),
        count => format!("filled in from the first of {count} mappings that were pasted; add the others in turn"),
    };
    say(state, Severity::None, &text);
}

/// Asks the service about what was typed, once typing has paused.
pub(super) fn ask_when_due(state: &mut State, effects: &mut Vec<Effect>) {
    let now_ms = state.now_ms;
    let Some(form) = form(state) else { return };
    if form.ask_at_ms.is_none_or(|at| at > now_ms) {
        return;
    }
    form.ask_at_ms = None;
    let (generation, edits) = (form.generation, form.edits);
    match form.listen() {
        Some(listen) => effects
            .push(ask(Asked::Port(generation), Request::WhoHolds { listen, protocol: form.protocol, except: edits })),
        None => form.port_report = None,
    }
    if form.is_complete() {
        let mapping = form.written();
        effects.push(ask(Asked::Verdict(generation), Request::Validate { mapping, replaces: edits }));
    } else {
        form.verdict = None;
    }
}

/// Who holds the port.
pub(super) fn port_told(state: &mut State, generation: u64, answer: Result<Reply, RequestError>) {
    let Some(form) = form(state) else { return };
    if form.generation == generation {
        form.port_report = match answer {
            Ok(Reply::Port(report)) => Some(report),
            _ => None,
        };
    }
}

/// Whether the form is valid.
pub(super) fn judged(state: &mut State, generation: u64, answer: Result<Reply, RequestError>) {
    let Some(form) = form(state) else { return };
    if form.generation == generation {
        form.verdict = match answer {
            Ok(Reply::Valid { name, notes, will_be_at, places }) => {
                // A service that does not name the places says them as addresses.
                let plain = || will_be_at.iter().map(|address| SafeText::new(&address.to_string())).collect();
                let places = if places.is_empty() { plain() } else { places };
                Some(Verdict::Valid { name, notes, places })
            }
            Err(RequestError::Invalid { problems }) => Some(Verdict::Invalid(problems)),
            _ => None,
        };
    }
}

/// How the target answered.
pub(super) fn probed(state: &mut State, target: &str, answer: Result<Reply, RequestError>) {
    let Some(form) = form(state) else { return };
    let Some(probe) = form.probe.as_mut().filter(|probe| probe.target == target) else { return };
    match answer {
        Ok(Reply::Probed { results, reason }) => {
            probe.results = Some(results);
            probe.reason = reason;
        }
        Ok(_) => {}
        Err(error) => {
            probe.results = Some(Vec::new());
            probe.reason = Some(SafeText::new(&error.to_string()));
        }
    }
}

/// The containers that are known.
pub(super) fn containers_told(state: &mut State, answer: Result<Reply, RequestError>) {
    let Some(form) = form(state) else { return };
    if let Ok(Reply::Containers { containers, docker }) = answer {
        form.containers = containers;
        form.docker = docker;
    }
}

fn save(state: &mut State, effects: &mut Vec<Effect>) {
    let Some(form) = form(state) else { return };
    if form.is_saving {
        return;
    }
    if !form.is_complete() {
        let missing = form.fields().into_iter().find(|field| {
            let empty = |input: &tui_input::Input| input.value().trim().is_empty();
            match field {
                Field::Address => empty(&form.address),
                Field::Port => empty(&form.port),
                Field::Host => empty(&form.host),
                Field::TargetPort => empty(&form.target_port),
                Field::Who | Field::Protocol | Field::Identity | Field::Name => false,
            }
        });
        if let Some(field) = missing {
            form.focus = field;
            form.save_error = Some(SafeText::new(match field {
                Field::Address => "which address? clients connect to it",
                Field::Port => "which port? clients connect to it; auto takes a free one",
                Field::Host => "which target? a container, an address, or host/NAME",
                _ => "which port of the target?",
            }));
        }
        return;
    }
    if let Some(why) = changed_meanwhile(state) {
        if let Some(form) = self::form(state) {
            form.save_error = Some(why);
        }
        return;
    }
    let Some(form) = self::form(state) else { return };
    form.is_saving = true;
    form.save_error = None;
    let mapping = form.written();
    let even_if_busy = form.refused_busy.as_ref() == Some(&form.listen_text());
    let request = match form.edits {
        Some(id) => Request::Edit { id, mapping, even_if_busy },
        None => Request::Add { mapping, even_if_busy },
    };
    let effect = change(state, Asked::Save, request);
    effects.push(effect);
}

/// What somebody else has done to the mapping since the form was opened, which saving would take back. Said once: then
/// it is known. What the form does not show is theirs in any case.
fn changed_meanwhile(state: &mut State) -> Option<SafeText> {
    let (id, was) = form(state).and_then(|form| Some((form.edits?, form.was.clone()?)))?;
    let Some(now) = state.live.mappings.get(&id).map(|item| item.row.written.clone()) else {
        return Some("it was removed in the meantime: u brings it back, once this is left with esc".into());
    };
    let is_same = WrittenMapping { enabled: was.enabled, ..now.clone() } == was;
    let shown = format!("{} -> {}", now.listen, now.target);
    if let Some(form) = form(state) {
        form.base = WrittenMapping { name: form.base.name.clone(), ..now.clone() };
        form.was = Some(now);
    }
    (!is_same).then(|| {
        SafeText::new(&format!(
            "it was changed elsewhere meanwhile ({shown}): enter saves this over it, esc keeps that"
        ))
    })
}

/// A mapping of the palette was refused: the form opens with it and with the reason, as after a refused save, so
/// that nothing has to be typed again and a busy port can be kept all the same. False: there is nothing to mend.
pub(super) fn take_refused(
    state: &mut State,
    mapping: &WrittenMapping,
    edits: Option<MappingId>,
    error: &RequestError,
    effects: &mut Vec<Effect>,
) -> bool {
    let mends = matches!(error, RequestError::PortInUse { .. } | RequestError::Invalid { .. });
    let (Ok(listen), Ok(target)) = (mapping.listen.parse(), mapping.target.parse()) else { return false };
    if !mends || !matches!(state.overlay, Overlay::None) {
        return false;
    }
    let mut form = Form::of(mapping, &listen, &target, mapping.protocol.unwrap_or_default());
    form.edits = edits;
    actions::open_form(state, form, effects);
    saved(state, Err(error.clone()));
    true
}

/// The service has saved, or not.
pub(super) fn saved(state: &mut State, answer: Result<Reply, RequestError>) {
    let now_ms = state.now_ms;
    let Some(form) = form(state) else { return };
    form.is_saving = false;
    match answer {
        Ok(Reply::Done { ids, message, .. }) => {
            let who = form.who;
            let is_new = form.edits.is_none();
            state.overlay = Overlay::None;
            state.select_when_told = ids.first().copied();
            if !is_new {
                note(state, Severity::None, message);
                return;
            }
            let message = match who {
                Who::ThisMachine => "Only this machine can connect; e opens it to the network".into(),
                Who::ThisNetwork => "Other machines can connect, too; e keeps it to this one".into(),
                Who::One => message,
            };
            // True once it listens, and not before.
            state.saved_when_told = ids.first().map(|id| (*id, message));
        }
        Err(RequestError::PortInUse { report }) => {
            form.refused_busy = Some(form.listen_text());
            form.port_report = Some(report);
            form.focus = Field::Port;
        }
        Err(RequestError::Invalid { problems }) => form.verdict = Some(Verdict::Invalid(problems)),
        Err(error) => {
            form.save_error = Some(SafeText::new(&error.to_string()));
            // Somebody else changed the profile: the next save is made from how it stands then.
            form.ask_at_ms = Some(now_ms);
        }
        Ok(_) => {}
    }
}
