// Follow a stream with a client from npm, and print the name and the id of each event.
//
//     node follow.mjs CLIENT URL
import { createRequire } from "node:module";
import { EventSource } from "eventsource";

const [client, url] = process.argv.slice(2);
const require = createRequire(import.meta.url);

function print(source) {
  for (const name of ["message", "ready", "scoreboard", "delta", "reset"]) {
    source.addEventListener(name, (event) => console.log(event.type, event.lastEventId));
  }
}

switch (client) {
  case "eventsource":
    print(new EventSource(url));
    break;
  case "reconnecting-eventsource": {
    Object.assign(globalThis, { window: globalThis, EventSource });
    const { default: ReconnectingEventSource } = require(client);
    print(new ReconnectingEventSource(url));
    break;
  }
  case "event-source-polyfill": {
    const { EventSourcePolyfill } = require(client);
    print(new EventSourcePolyfill(url));
    break;
  }
  case "fetch-event-source": {
    const document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    Object.assign(globalThis, { window: globalThis, document });
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    const onclose = () => {
      throw new Error("ended"); // so that it comes back
    };
    fetchEventSource(url, { onmessage: ({ event, id }) => console.log(event, id), onclose });
    break;
  }
}
