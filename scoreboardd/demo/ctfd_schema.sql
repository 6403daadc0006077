-- The tables of CTFd 3.8, as far as a board depends on them.
CREATE TABLE brackets (id INTEGER PRIMARY KEY, name VARCHAR(255), type VARCHAR(80));
CREATE TABLE teams (
    id INTEGER PRIMARY KEY, name VARCHAR(128), password VARCHAR(128), hidden BOOLEAN, banned BOOLEAN, bracket_id INTEGER
);
CREATE TABLE users (
    id INTEGER PRIMARY KEY, name VARCHAR(128), password VARCHAR(128), type VARCHAR(80), hidden BOOLEAN, banned BOOLEAN,
    team_id INTEGER, bracket_id INTEGER
);
CREATE TABLE challenges (
    id INTEGER PRIMARY KEY, name VARCHAR(80), category VARCHAR(80), value INTEGER, state VARCHAR(80), type VARCHAR(80),
    "initial" INTEGER, minimum INTEGER, decay INTEGER, "function" VARCHAR(32), scheduled_at DATETIME
);
CREATE TABLE dynamic_challenge (
    id INTEGER PRIMARY KEY, dynamic_initial INTEGER, dynamic_minimum INTEGER, dynamic_decay INTEGER,
    dynamic_function VARCHAR(32)
);
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY, challenge_id INTEGER, user_id INTEGER, team_id INTEGER, type VARCHAR(32), date DATETIME
);
CREATE TABLE solves (
    id INTEGER PRIMARY KEY, challenge_id INTEGER, user_id INTEGER, team_id INTEGER,
    UNIQUE (challenge_id, user_id), UNIQUE (challenge_id, team_id)
);
CREATE TABLE awards (
    id INTEGER PRIMARY KEY, user_id INTEGER, team_id INTEGER, name VARCHAR(80), value INTEGER, date DATETIME,
    category VARCHAR(80)
);
CREATE TABLE config (id INTEGER PRIMARY KEY, "key" TEXT, value TEXT);
