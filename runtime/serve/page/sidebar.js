// The list of chats: beside the conversation, or on narrow screens above it.

import { byId, element, iconButton } from "./dom.js";

/** @typedef {import("./history.js").Heading} Heading */

/**
 * @param {{open: (id: string) => void, remove: (id: string) => void, begin: () => void}} actions
 * @returns {{show: (chats: Heading[], current: string) => void, close: () => void}}
 */
export function sidebar(actions) {
  const opener = byId("open-sidebar");
  const toggle = (/** @type {boolean} */ open) => {
    document.body.classList.toggle("with-sidebar", open);
    byId("shade").hidden = !open;
    opener.ariaExpanded = String(open);
    if (open) byId("close-sidebar").focus();
  };
  opener.onclick = () => toggle(true);
  byId("close-sidebar").onclick = byId("shade").onclick = () => {
    toggle(false);
    opener.focus();
  };
  byId("new-chat").onclick = actions.begin;
  const item = (/** @type {Heading} */ chat, /** @type {string} */ current) => {
    const open = element("button", { type: "button", className: "open", onclick: () => actions.open(chat.id) }, chat.title);
    if (chat.id === current) open.setAttribute("aria-current", "page");
    return element("li", {}, open, iconButton("delete", `Delete the chat “${chat.title}”`, () => actions.remove(chat.id)));
  };
  return {
    show: (chats, current) => byId("chats").replaceChildren(...chats.map((chat) => item(chat, current))),
    close: () => toggle(false),
  };
}
