"""A conversation on the page: type, read the answer as it comes, stop it, go on.

    ChatBox(model, tokenizer, system="Answer in one sentence.")

What is said is kept by `Talk`, plain Python; `ChatBox` shows it. An answer is written in a thread of its own, so that the
stop button is heard meanwhile.
"""

import html
import textwrap
import threading
import time

import ipywidgets as ipw

from minimistral.chat import Chat
from minimistral.widgets.picture import BLUE, GREY, ORANGE, TextFallback, figure, finish

SECONDS = 0.05  # between two drawings of an answer that is being written
COLOURS = {"system": GREY, "you": BLUE, "model": ORANGE}


class Talk:
    """A conversation as one sees it.

    said     (who, text) in order, who is "you" or "model"; the last answer grows while `running`
    note     one line on what happened last
    changed  is called, from the answering thread too, when there is something new to see

    The options (max_new_tokens, temperature, ...) are Chat's.
    """

    def __init__(self, model, tokenizer, system: str = "", changed=lambda: None, **options):
        self.model, self.tokenizer, self.options, self.changed = model, tokenizer, options, changed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.new(system)

    def new(self, system: str = ""):
        """Begin again. An answer that is being written is stopped and forgotten."""
        self._stop.set()
        self.system, self.running = system.strip(), False
        self.chat = Chat(self.model, self.tokenizer, self.system or None, **self.options)
        self.said: list[tuple[str, str]] = []
        self._tell("Nothing has been said yet.")

    def send(self, text: str) -> bool:
        """Begin to answer, and return at once; whether it began. The note says why where it did not."""
        if self.running:
            return self._tell("The answer before is still being written. Stop it, or wait.")
        if not text.strip():
            return self._tell("Type something first.")
        chat, self._stop = self.chat, threading.Event()
        try:
            pieces = chat.say(text)
        except ValueError as error:  # the conversation stands as it was
            return self._tell(str(error))
        self.said, self.running = [*self.said, ("you", text), ("model", "")], True
        self._tell("Reading …")
        self._thread = threading.Thread(target=self._listen, args=(chat, pieces, self._stop), daemon=True)
        self._thread.start()
        return True

    def stop(self):
        """Let the answer end where it is. What has been said so far stays, and the conversation can go on."""
        if self.running:
            self._stop.set()
            self._tell("Stopping …")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is being written; whether that is so."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.running

    def text(self) -> str:
        """The conversation in words, without what differs between machines."""
        lines = [f"{who}: {text}" for who, text in [("system", self.system)] * bool(self.system) + self.said]
        reused, whole = self.chat.reused
        told = f"{reused:,} of {whole:,} tokens were in the cache already" if whole else self.note
        return "\n".join([*lines, f"({told})"])

    def _tell(self, note: str) -> bool:
        self.note = note
        self.changed()
        return False

    def _listen(self, chat: Chat, pieces, stop: threading.Event):
        trouble, heard = "", ""
        try:
            for piece in pieces:
                heard += piece
                if chat is self.chat:  # else a new conversation has begun meanwhile
                    self.said = [*self.said[:-1], ("model", heard)]
                    self.changed()
                if stop.is_set():
                    break
        except Exception as error:  # nobody would see it: this is a thread
            trouble = f"{type(error).__name__}: {error} "
        finally:
            pieces.close()
        if chat is not self.chat:
            return
        names = {"user": "you", "assistant": "model"}
        self.said = [(names[m["role"]], m["content"]) for m in chat.messages if m["role"] in names]
        reused, whole = chat.reused
        stopped = "stopped; " * stop.is_set()
        self.running = False
        self._tell(f"{trouble}{stopped}{chat.speed:.0f} tokens/s; {reused:,} of {whole:,} tokens were in the cache already")


def drawn(talk: Talk) -> str:
    """The conversation as HTML. Whatever was typed or written is text in it, never markup."""
    rows = [("system", talk.system)] * bool(talk.system) + talk.said
    return "".join(
        f"<div class='mm-chat-{who}' style='border-left:4px solid {COLOURS[who]};padding:2px 10px;margin:6px 0;line-height:1.4'>"
        f"<b>{who}</b><div style='white-space:pre-wrap;overflow-wrap:anywhere'>{html.escape(text) or '…'}</div></div>"
        for who, text in rows
    )


def noted(talk: Talk) -> str:
    """The line below, as HTML, and the finished answer once more for those who listen: the conversation is not read aloud."""
    aloud = talk.said[-1][1] if talk.said and not talk.running else ""
    hidden = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
    return f"<i>{html.escape(talk.note)}</i><span style='{hidden}'>{html.escape(aloud)}</span>"


def draw(talk: Talk):
    """The conversation as a still picture."""
    rows = []
    for who, text in [("system", talk.system)] * bool(talk.system) + talk.said:
        lines = [part for line in text.split("\n") for part in textwrap.wrap(line, 92) or [""]]
        rows += [(who if n == 0 else "", line, COLOURS[who]) for n, line in enumerate(lines)] + [("", "", "white")]
    rows = rows[-60:] + [("", talk.text().splitlines()[-1], GREY)]
    made, ax = figure(8.4, 0.5 + 0.23 * len(rows))
    for n, (who, line, colour) in enumerate(rows):
        ax.text(0, n, who, color=colour, weight="bold", va="center")
        ax.text(0.09, n, line, va="center", family="DejaVu Sans")
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    ax.axis("off")
    return finish(made, talk.text())


#: What ipywidgets cannot do: Enter sends, Escape stops, the conversation stays at its end, the note is read aloud.
SCRIPT = """<script>(() => {
  const wire = box => {
    const [field, send, stop, log, note] =
      ['text textarea', 'send', 'stop', 'log', 'note'].map(css => box.querySelector('.mm-chat-' + css));
    if (!field || !send || !stop || !log || !note) return false;
    box.dataset.wired = 'yes';
    box.querySelectorAll('textarea').forEach(one => one.setAttribute('data-lm-suppress-shortcuts', 'true'));
    field.setAttribute('aria-label', 'Your message');
    log.setAttribute('role', 'group');
    log.setAttribute('aria-label', 'Conversation');
    log.tabIndex = 0;
    note.setAttribute('role', 'status');
    note.setAttribute('aria-live', 'polite');
    field.addEventListener('keydown', event => {
      if (event.key === 'Escape') stop.click();
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      field.dispatchEvent(new Event('change', {bubbles: true}));
      send.click();
    });
    new MutationObserver(() => { log.scrollTop = log.scrollHeight; }).observe(log, {childList: true, subtree: true});
    return true;
  };
  let tries = 50;
  const look = () => {
    const boxes = [...document.querySelectorAll('.mm-chat:not([data-wired])')];
    if ((!boxes.length || !boxes.map(wire).every(Boolean)) && tries--) setTimeout(look, 100);
  };
  look();
})()</script>"""


class ChatBox(TextFallback, ipw.VBox):
    """A field to type in, send, stop, a new conversation, and a system prompt, which holds from the next new conversation on."""

    def __init__(self, model, tokenizer, system: str = "", **options):
        wide = ipw.Layout(width="760px")
        self.system = ipw.Textarea(system, placeholder="a system prompt, if you like", rows=2, continuous_update=False,
                                   layout=wide)  # fmt: skip
        self.shown = ipw.HTML(layout=ipw.Layout(width="760px", max_height="420px", overflow="auto"))
        self.field = ipw.Textarea(placeholder="Say something. Enter sends, Shift+Enter makes a new line, Escape stops.", rows=2,
                                  continuous_update=False, layout=wide)  # fmt: skip
        self.go, self.halt, self.fresh = (ipw.Button(description=name) for name in ("send", "stop", "new conversation"))
        self.note = ipw.HTML()
        script = ({"output_type": "display_data", "data": {"text/html": SCRIPT, "text/plain": ""}, "metadata": {}},)
        keys = ipw.Output(outputs=script, layout=ipw.Layout(height="0", margin="0", overflow="hidden"))
        names = {"system": self.system, "log": self.shown, "text": self.field, "send": self.go, "stop": self.halt,
                 "new": self.fresh, "note": self.note}  # fmt: skip
        for name, control in names.items():
            control.add_class(f"mm-chat-{name}")
        self._drawn = 0.0
        self.talk = Talk(model, tokenizer, system, **options)
        buttons = ipw.HBox([self.go, self.halt, self.fresh])
        super().__init__([self.system, self.shown, self.field, buttons, self.note, keys])
        self.add_class("mm-chat")
        self.talk.changed = self._show
        self.go.on_click(self._said)
        self.halt.on_click(lambda _: self.talk.stop())
        self.fresh.on_click(lambda _: self.talk.new(self.system.value))
        self.system.observe(self._asked, "value")
        self._show()

    def text(self):
        return self.talk.text()

    def png(self):
        return draw(self.talk).png

    def _said(self, _):
        if self.talk.send(self.field.value):
            self.field.value = ""

    def _asked(self, _):
        if not self.talk.said:
            self.talk.new(self.system.value)
        elif self.system.value.strip() != self.talk.system:
            self.talk._tell("The system prompt holds from the next new conversation on.")

    def _show(self):
        now = time.monotonic()
        if self.talk.running and self.talk.said[-1][1] and now - self._drawn < SECONDS:
            return
        self._drawn = now
        self.shown.value, self.note.value = drawn(self.talk), noted(self.talk)
        self.halt.disabled = not self.talk.running
        self.go.disabled = self.talk.running
