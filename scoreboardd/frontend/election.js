/** One stream for all tabs of a browser: which tab holds it. */

/**
 * Decides which of the tabs holds the stream. Pure: the caller passes in the time (seconds) and messages, and posts the messages
 * that each method returns. A message has a `type`: "discover" asks for the leader, "lead" is the leader's heartbeat, "resign" is
 * its last message.
 *
 * - The leader posts "lead" every `BEAT` seconds. A tab that receives nothing for `SILENCE` seconds and a random time leads.
 * - Of two leaders the one with the smaller id stays, unless it missed its own heartbeats: then it was asleep, and may be again.
 */
export class Election {
  static BEAT = 2;
  static SILENCE = 6;
  static OPENING = 0.2;

  constructor(id, random) {
    this.id = id;
    this.random = random;
    this.role = "waiting";
    this.leader = null;
    this.deadline = Infinity;
  }

  start(now) {
    this.deadline = now + Election.OPENING * (1 + this.random());
    return [{ type: "discover" }];
  }

  receive({ from, type }, now) {
    if (from === this.id) return [];
    if (type === "discover") return this.role === "leader" ? [{ type: "lead" }] : [];
    if (type === "resign" && from === this.leader) {
      this.#follow(null, now + Election.OPENING * this.random());
      return [];
    }
    if (type !== "lead") return [];
    const awake = now < this.deadline + Election.SILENCE - Election.BEAT;
    if (this.role === "leader" && this.id < from && awake) return [{ type: "lead" }];
    this.#follow(from, now + Election.SILENCE + Election.BEAT * this.random());
    return [];
  }

  tick(now) {
    if (now < this.deadline) return [];
    this.role = "leader";
    this.leader = this.id;
    this.deadline = now + Election.BEAT;
    return [{ type: "lead" }];
  }

  leave() {
    const was = this.role;
    this.role = "waiting";
    this.deadline = Infinity;
    return was === "leader" ? [{ type: "resign" }] : [];
  }

  #follow(leader, deadline) {
    this.role = leader === null ? "waiting" : "follower";
    this.leader = leader;
    this.deadline = deadline;
  }
}
