"""Who rebuilds, and when: a pure state machine (`coordinator`) and the shell that does its bidding (`runner`)."""
