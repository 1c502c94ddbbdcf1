package agent

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/image"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

func answerImages(w http.ResponseWriter, imgs []runtime.Image) error {
	out := api.NodeImages{Items: []api.NodeImage{}}
	for _, i := range imgs {
		out.Items = append(out.Items, api.NodeImage{Reference: i.Reference, Digest: i.Digest, Size: i.Size})
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(out)
}

func (a *Agent) serveImages(w http.ResponseWriter, r *http.Request) error {
	imgs, err := a.images.List(r.Context())
	if err != nil {
		return err
	}
	return answerImages(w, imgs)
}

func (a *Agent) serveImport(w http.ResponseWriter, r *http.Request) error {
	imgs, err := a.images.Import(r.Context(), r.Body)
	if err != nil {
		return api.Errorf(api.Invalid, "node %s: %s", a.cfg.Name, err)
	}
	if len(imgs) == 0 {
		return api.Errorf(api.Invalid, "node %s: the archive names no image: its index.json needs the annotation io.containerd.image.name", a.cfg.Name)
	}
	for _, i := range imgs {
		a.log.Info("image loaded", "image", i.Reference, "digest", i.Digest)
	}
	return answerImages(w, imgs)
}

// serveArchive hands an image to a server, which hands it to a node that lacks it.
func (a *Agent) serveArchive(w http.ResponseWriter, r *http.Request) error {
	q, begun := r.URL.Query(), false
	err := a.images.Export(r.Context(), q.Get("reference"), q.Get("digest"), func() io.Writer {
		begun = true
		w.Header().Set("Content-Type", "application/x-tar")
		return w
	})
	if err != nil && begun { // half an archive must not look like a whole one
		a.log.Debug("image not handed over", "image", q.Get("reference"), "error", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

func (a *Agent) serveRemoveImage(w http.ResponseWriter, r *http.Request) error {
	ref := r.URL.Query().Get("reference")
	err := a.images.Remove(r.Context(), ref)
	switch {
	case errors.Is(err, image.ErrInUse):
		return api.Errorf(api.Conflict, "node %s: %s", a.cfg.Name, err)
	case err != nil:
		return err
	}
	a.log.Info("image removed", "image", ref)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
