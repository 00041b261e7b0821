// The list of chats: beside the conversation, or on narrow screens above it.

import { button, byId, element, iconButton } from "./dom.js";

export function sidebar({ open, remove, begin }) {
	const opener = byId("open-sidebar");
	const toggle = (shown) => {
		document.body.classList.toggle("with-sidebar", shown);
		byId("shade").hidden = !shown;
		opener.ariaExpanded = String(shown);
		if (shown) byId("close-sidebar").focus();
	};
	opener.onclick = () => toggle(true);
	byId("close-sidebar").onclick = byId("shade").onclick = () => {
		toggle(false);
		opener.focus();
	};
	byId("new-chat").onclick = begin;
	return {
		show: (chats, current) =>
			byId("chats").replaceChildren(
				...chats.map(({ id, title }) => {
					const opens = button(title, () => open(id), "open");
					if (id === current) opens.ariaCurrent = "page";
					return element("li", {}, opens, iconButton("delete", `Delete the chat “${title}”`, () => remove(id)));
				}),
			),
		close: () => toggle(false),
	};
}
