//! Plays the demo's story to a screen without a terminal.

use portolan::demo::{BEGINNING_MS, PRESENT_MS, STEP_MS, Story};
use portolan::model::request::{Call, Reply, RequestError};
use portolan::model::update::Update;
use portolan::tui::keymap::Key;
use portolan::tui::state::{Look, State};
use portolan::tui::update::{Asked, Effect, Msg, update};
use portolan::tui::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A screen and the service that it believes in.
pub(crate) struct Player {
    pub(crate) state: State,
    pub(crate) story: Story,
    /// What the screen asked for beyond the service.
    pub(crate) outside: Vec<Effect>,
    /// Every request, in order.
    pub(crate) asked: Vec<(Asked, Call)>,
}

impl Player {
    /// A screen of that size, at the story's present.
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        Self::looking(Look::default(), columns, rows)
    }

    pub(crate) fn looking(look: Look, columns: u16, rows: u16) -> Self {
        let mut player = Self::silent(look, columns, rows);
        let update = player.story.full_update();
        player.tell(Msg::Update(Box::new(through_json(&update))));
        while player.story.now_ms() < PRESENT_MS {
            player.story.advance_to(player.story.now_ms() + STEP_MS);
            let update = player.story.next_update();
            update_state(&mut player.state, player.story.now_ms(), update);
        }
        player
    }

    /// A screen that was told nothing yet.
    pub(crate) fn silent(look: Look, columns: u16, rows: u16) -> Self {
        let state = State::new(look, (columns, rows));
        Self { state, story: Story::new(), outside: Vec::new(), asked: Vec::new() }
    }

    /// Lets time pass, in the story and on the screen.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.story.now_ms() + ms;
        while self.story.now_ms() + STEP_MS <= end {
            self.story.advance_to(self.story.now_ms() + STEP_MS);
            self.catch_up();
        }
    }

    /// The screen's clock goes with the story's.
    fn catch_up(&mut self) {
        let now_ms = self.story.now_ms() - BEGINNING_MS;
        self.tell(Msg::Clock(now_ms));
        let update = self.story.next_update();
        self.tell(Msg::Update(Box::new(through_json(&update))));
    }

    /// Tells the screen something and carries out what it asks of the service.
    pub(crate) fn tell(&mut self, msg: Msg) {
        let mut effects = update(&mut self.state, msg);
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                if let Effect::Ask(asked, call) = effect {
                    let call: Call = through_json(&*call);
                    let answer = self.story.answer(&call);
                    self.asked.push((asked.clone(), call));
                    next.extend(update(&mut self.state, Msg::Answer(asked, Box::new(answer_through_json(&answer)))));
                    let told: Update = through_json(&self.story.next_update());
                    next.extend(update(&mut self.state, Msg::Update(Box::new(told))));
                } else {
                    self.outside.push(effect);
                }
            }
            effects = next;
        }
    }

    pub(crate) fn press(&mut self, key: Key) {
        self.tell(Msg::Key(key));
    }

    /// Types text, key by key.
    pub(crate) fn types(&mut self, text: &str) {
        for c in text.chars() {
            self.press(Key::Char(c));
        }
    }

    /// Lets the form's questions be asked.
    pub(crate) fn pause(&mut self) {
        self.advance(2 * STEP_MS);
    }

    /// What is on the screen now.
    pub(crate) fn buffer(&self) -> Buffer {
        let (columns, rows) = self.state.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("no terminal is needed");
        terminal.draw(|frame| view::draw(&self.state, frame)).expect("drawn into memory");
        terminal.backend().buffer().clone()
    }

    /// The screen as lines of text, without the blanks at their ends.
    pub(crate) fn picture(&self) -> String {
        let buffer = self.buffer();
        let lines: Vec<String> = (0..buffer.area.height)
            .map(|y| {
                let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
                line.trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }

    /// Line `y` of the screen.
    pub(crate) fn line(&self, y: usize) -> String {
        self.picture().lines().nth(y).unwrap_or_default().to_owned()
    }

    /// The last line: news and questions.
    pub(crate) fn news(&self) -> String {
        self.line(usize::from(self.state.size.1) - 1)
    }
}

/// The past, which need not go through JSON.
fn update_state(state: &mut State, now_ms: u64, told: Update) {
    update(state, Msg::Clock(now_ms - BEGINNING_MS));
    update(state, Msg::Update(Box::new(told)));
}

/// As if the service were in another process.
pub(crate) fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("plain data");
    serde_json::from_str(&text).expect("what was written can be read")
}

fn answer_through_json(answer: &Result<Reply, RequestError>) -> Result<Reply, RequestError> {
    match answer {
        Ok(reply) => Ok(through_json(reply)),
        Err(error) => Err(through_json(error)),
    }
}
