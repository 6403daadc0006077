"""The demo: real embedded servers and a simulated contest, which the tests share."""
