/** One stream for all tabs of a browser: which tab holds it. */

/**
 * Which of the tabs holds the stream. Pure: it is told of time (seconds) and of messages, and says what to post.
 *
 * - Whoever leads says so every `BEAT`. Whoever hears nothing for `SILENCE` leads, after a random while.
 * - Of two that lead the one with the smaller id goes on; but one that was silent so long has been asleep, and may again.
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
    return [{ say: "who" }];
  }

  hear({ from, say }, now) {
    if (from === this.id) return [];
    if (say === "who") return this.role === "leader" ? [{ say: "lead" }] : [];
    if (say === "bye" && from === this.leader) {
      this.#follow(null, now + Election.OPENING * this.random());
      return [];
    }
    if (say !== "lead") return [];
    const awake = now < this.deadline + Election.SILENCE - Election.BEAT;
    if (this.role === "leader" && this.id < from && awake) return [{ say: "lead" }];
    this.#follow(from, now + Election.SILENCE + Election.BEAT * this.random());
    return [];
  }

  tick(now) {
    if (now < this.deadline) return [];
    this.role = "leader";
    this.leader = this.id;
    this.deadline = now + Election.BEAT;
    return [{ say: "lead" }];
  }

  leave() {
    const was = this.role;
    this.role = "waiting";
    this.deadline = Infinity;
    return was === "leader" ? [{ say: "bye" }] : [];
  }

  #follow(leader, deadline) {
    this.role = leader === null ? "waiting" : "follower";
    this.leader = leader;
    this.deadline = deadline;
  }
}
