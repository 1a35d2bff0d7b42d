"""Messages to people, at the addresses of UPBIT_ALERT_URLS."""

import logging
from dataclasses import dataclass, field
from datetime import timedelta

import apprise
import click

from upbit_assets.local_http import is_local, proxies_bypassed
from upbit_assets.settings import settings

log = logging.getLogger(__name__)

MESSAGES = {
    "ko": {
        "begun": "문제가 발생했습니다",
        "over": "문제가 해결되었습니다",
        "lasted": "지속 시간: {}분",
        "test": "테스트 알림입니다. 이 메시지가 보이면 알림 설정이 완료된 것입니다.",
    },
    "en": {
        "begun": "Something is wrong",
        "over": "Resolved",
        "lasted": "It lasted {} min.",
        "test": "This is a test: if you can read it, alerts are set up.",
    },
}


class AlertError(click.ClickException):
    """Alerts can't be sent; the message says why, without the addresses, which hold secrets."""


@dataclass
class Channel:
    """Where alerts are sent.

    Raises:
        AlertError: no address is set, or Apprise can't read one.
    """

    urls: tuple[str, ...] = field(default_factory=lambda: settings.UPBIT_ALERT_URLS)
    language: str = field(default_factory=lambda: settings.UPBIT_ALERT_LANGUAGE)

    def __post_init__(self) -> None:
        if not self.urls:
            raise AlertError("UPBIT_ALERT_URLS is not set: set it to one or more Apprise URLs, separated by spaces.")
        self.targets = apprise.Apprise()
        for url in self.urls:
            if not self.targets.add(url):
                raise AlertError(f"UPBIT_ALERT_URLS has a {url.partition(':')[0]}:// URL that Apprise can't read.")
        self.messages = MESSAGES[self.language]

    def begun(self, text: str) -> bool:
        """Report a problem; returns whether it was sent."""
        return self.send(self.messages["begun"], text, apprise.NotifyType.FAILURE)

    def over(self, text: str, lasted: timedelta) -> bool:
        """Report that a problem is over; returns whether it was sent."""
        duration = self.messages["lasted"].format(max(round(lasted / timedelta(minutes=1)), 1))
        return self.send(self.messages["over"], f"{duration}\n{text}", apprise.NotifyType.SUCCESS)

    def test(self) -> None:
        if not self.send("test", self.messages["test"], apprise.NotifyType.INFO):
            raise AlertError("No address of UPBIT_ALERT_URLS accepted the message. Check them and the network.")

    def send(self, title: str, text: str, kind: apprise.NotifyType) -> bool:
        """Send it to all addresses; returns whether any accepted it: sending it again would repeat it there."""
        title, local = f"upbit-assets: {title}", {str(target.host) for target in self.targets}
        with proxies_bypassed(sorted(host for host in local if is_local(f"http://{host}"))):
            taken = [target.notify(title=title, body=text, notify_type=kind) for target in self.targets]
        if not all(taken):
            log.warning("%d of %d addresses of UPBIT_ALERT_URLS accepted no alert.", taken.count(False), len(taken))
        return any(taken)
