"""Conformance suites: what every law, estimator, optimizer, oracle and execution must satisfy.

Subclass one in a test file and give it one pytest fixture:

    from blackbox.testing.noise import NoiseSuite

    class TestMyLaw(NoiseSuite):
        @pytest.fixture
        def law(self) -> Law:
            return MyLaw()

Needs pytest.
"""
