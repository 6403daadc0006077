CREATE TABLE people (id integer PRIMARY KEY, name varchar(100) NOT NULL, is_public boolean NOT NULL);
CREATE TABLE events (
    id integer PRIMARY KEY,
    person_id integer NOT NULL,
    points integer NOT NULL,
    happened_at bigint NOT NULL -- Unix time in seconds
);
