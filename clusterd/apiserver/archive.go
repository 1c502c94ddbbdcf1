package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// archives is how many images this server carries from node to node at a time.
const archives = 4

// serveArchive answers GET /v1/images/{name}/archive: a node that lacks an image
// which was loaded by hand gets it from one that has it. Nodes take no
// connections, so it goes through here, and nothing of it stays.
func (s *Server) serveArchive(w http.ResponseWriter, r *request) error {
	if r.by.Role != RoleNode {
		return api.Errorf(api.Denied, "only a node gets the archive of an image, with its certificate")
	}
	if s.cfg.Tunnels == nil {
		return errNoTunnels()
	}
	r.stand() // it takes as long as its bytes
	key, err := r.key()
	if err != nil {
		return err
	}
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	o := snap.get(key)
	if o == nil {
		return s.missing(snap, r.ref())
	}
	var img api.ImageSpec
	if err := json.Unmarshal(o.spec, &img); err != nil {
		return fmt.Errorf("decode %s: %w", o.ref(), err)
	}
	select {
	case s.archives <- struct{}{}:
		defer func() { <-s.archives }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	ctx, cancel := context.WithTimeout(r.Context(), imageTimeout)
	defer cancel()
	from, err := s.holder(ctx, o.ref(), img, r.by.Name)
	if err != nil {
		return err
	}
	defer from.Close()
	w.Header().Set("Content-Type", "application/x-tar")
	if _, err := io.Copy(w, from); err != nil {
		s.log.Warn("image not handed over", "image", img.Reference, "to", r.by.Name, "error", err)
		panic(http.ErrAbortHandler) // half an archive must not look like a whole one
	}
	img.Nodes = []string{r.by.Name}
	if err := s.recordImage(r, img); err != nil {
		s.log.Warn("record who has an image", "image", img.Reference, "error", err)
	}
	return nil
}

// holder begins to read the archive of an image from any node that has it.
func (s *Server) holder(ctx context.Context, ref api.Ref, img api.ImageSpec, asker string) (io.ReadCloser, error) {
	nodes := slices.DeleteFunc(slices.Clone(img.Nodes), func(n string) bool { return n == asker })
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	query := url.Values{"reference": {img.Reference}, "digest": {img.Digest}}.Encode()
	for _, node := range nodes {
		body, err := s.archiveOf(ctx, node, query)
		if err == nil {
			return body, nil
		}
		s.log.Debug("a node does not hand an image over", "node", node, "image", img.Reference, "error", err)
	}
	slices.Sort(nodes)
	return nil, conflict(api.Conflict, ref, "%s was loaded into %s, and none of them can hand it over now: load it again with clusterd image load",
		img.Reference, strings.Join(nodes, ", "))
}

func (s *Server) archiveOf(ctx context.Context, node, query string) (io.ReadCloser, error) {
	client, err := s.cfg.Tunnels.Client(node)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/v1/images/archive?"+query, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, &agentError{api.Code(resp.StatusCode), problemOf(resp)}
	}
	return resp.Body, nil
}
