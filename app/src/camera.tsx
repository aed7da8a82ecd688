/** A photo from the camera: its live picture in a dialog, and a button that takes it. */
import { useEffect, useRef, useState } from "preact/hooks";

interface Props {
  readonly onPhoto: (photo: Blob) => void;
  readonly onClose: () => void;
}

async function photoOf(video: HTMLVideoElement): Promise<Blob> {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d")!.drawImage(video, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

export function Camera({ onPhoto, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const video = useRef<HTMLVideoElement>(null);
  const [isReady, setReady] = useState(false);
  const [error, setError] = useState("");
  useEffect(() => {
    let isOver = false;
    let stream: MediaStream | null = null;
    const stop = (): void => stream?.getTracks().forEach((track) => track.stop());
    dialog.current?.showModal();
    const start = async (): Promise<void> => {
      // Only secure pages have it.
      if (!navigator.mediaDevices) throw new Error("This page has no access to a camera. Open it by HTTPS or on localhost."); // prettier-ignore
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (isOver) return stop(); // closed while the person was asked
      video.current!.srcObject = stream;
    };
    start().catch((problem: unknown) => setError(problem instanceof Error ? problem.message : String(problem)));
    return () => {
      isOver = true;
      stop();
    };
  }, []);

  return (
    <dialog ref={dialog} onClose={onClose} aria-label="Camera">
      <div class="camera">
        <video
          ref={video}
          autoplay
          playsinline
          muted
          aria-label="What the camera sees"
          onPlaying={() => setReady(true)}
        />
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <div class="row">
          <button
            type="button"
            class="primary"
            disabled={!isReady}
            onClick={() => {
              void photoOf(video.current!).then((photo) => {
                onPhoto(photo);
                dialog.current?.close();
              });
            }}
          >
            Take photo
          </button>
          <button type="button" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
        </div>
      </div>
    </dialog>
  );
}
