// The camera, where the browser gives one: over https, and on the server's own machine.

import { byId, element, notice } from "./dom.js";

/** A photo, unless none is taken. */
export async function photograph() {
	const video = { facingMode: "environment", width: { ideal: 2048 } };
	const stream = await navigator.mediaDevices.getUserMedia({ video }).catch(() => null);
	if (!stream) {
		notice("There is no camera that this page may use.");
		return null;
	}
	const dialog = byId("camera");
	const shown = dialog.querySelector("video");
	shown.srcObject = stream;
	dialog.showModal();
	try {
		return await new Promise((done) => {
			dialog.onclose = () => done(null);
			byId("shutter").onclick = () => {
				const canvas = element("canvas", { width: shown.videoWidth, height: shown.videoHeight });
				canvas.getContext("2d")?.drawImage(shown, 0, 0);
				canvas.toBlob((blob) => blob && done(new File([blob], "photo.jpg", { type: blob.type })), "image/jpeg", 0.92);
			};
		});
	} finally {
		stream.getTracks().forEach((track) => track.stop());
		dialog.close();
	}
}
