"""The betting slip as a form; every change is saved at once by `minimistral.bets`."""

import ipywidgets as ipw

from minimistral import bets
from minimistral.claims import CLAIMS, VERDICTS
from minimistral.widgets.picture import TextFallback


class Slip(TextFallback, ipw.VBox):
    """One row a claim: what was said, your verdict, how sure. A row left alone is no bet."""

    def __init__(self):
        slip = bets.load()
        self.status = ipw.HTML()
        super().__init__([*(self._row(claim, slip.get(claim.id)) for claim in CLAIMS), self.status])
        self.add_class("mm-slip")
        self._say(slip)

    def text(self):
        return f"A betting slip of {len(CLAIMS)} claims:\n" + "\n".join(f"  [ ] {claim.text}" for claim in CLAIMS)

    def _row(self, claim, bet):
        words = ipw.HTML(
            f"<div style='line-height:1.35'>{claim.text}<br><span style='opacity:.65;font-size:90%'>"
            f"{claim.source} · settled in chapter {claim.chapter:02d}</span></div>",
            layout=ipw.Layout(flex="1 1 22em"),
        )
        verdict = ipw.ToggleButtons(
            options=VERDICTS, value=bet and bet["verdict"], style={"button_width": "7.4em"},
            layout=ipw.Layout(flex="0 0 auto"),
        )  # fmt: skip
        sure = ipw.IntSlider(
            value=bet["sure"] if bet else 50, min=34, max=100, continuous_update=False, readout_format="d",
            layout=ipw.Layout(width="13em"), disabled=bet is None,
        )  # fmt: skip
        percent = ipw.Label("% sure")

        def save(_):
            sure.disabled = verdict.value is None
            if verdict.value:
                bets.place(claim.id, verdict.value, sure.value)
            self._say(bets.load())

        verdict.observe(save, "value")
        sure.observe(save, "value")
        return ipw.HBox(
            [words, verdict, sure, percent],
            layout=ipw.Layout(align_items="center", flex_flow="row wrap", border_bottom="1px solid #8884", padding="4px 0"),
        )

    def _say(self, slip):
        placed = f"{len(slip)} of {len(CLAIMS)} bets placed" if slip else "No bets yet: skip any you like"
        self.status.value = f"<i>{placed}. Saved as you go, on this machine only.</i>"
