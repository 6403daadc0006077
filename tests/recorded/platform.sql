-- The columns that the daemon reads of an smctf platform. This file does not change when the package does.
CREATE TABLE divisions (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE teams (id bigint PRIMARY KEY, name text NOT NULL, division_id bigint REFERENCES divisions);
CREATE TABLE users (
    id       bigint PRIMARY KEY,
    username text NOT NULL,
    role     text NOT NULL DEFAULT 'user',
    team_id  bigint REFERENCES teams
);
CREATE TABLE challenges (
    id             bigint PRIMARY KEY,
    title          text NOT NULL,
    category       text NOT NULL,
    points         integer NOT NULL,
    minimum_points integer NOT NULL
);
CREATE TABLE submissions (
    id             bigint PRIMARY KEY,
    user_id        bigint NOT NULL REFERENCES users,
    challenge_id   bigint NOT NULL REFERENCES challenges ON DELETE CASCADE,
    correct        boolean NOT NULL,
    is_first_blood boolean NOT NULL,
    submitted_at   timestamptz NOT NULL
);
