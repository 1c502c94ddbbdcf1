package apiserver

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Bounds of an image upload.
const (
	maxImage     = 8 << 30
	maxIndex     = 4 << 20
	spoolName    = "spool-*.tar"
	imageTimeout = 10 * time.Minute // for one node to take it
)

// serveImages answers POST /v1/images: the body, a tar in OCI layout, is
// loaded into every connected node. The answer is one line of JSON per step,
// api.ImageProgress; the last one says how it ended.
func (s *Server) serveImages(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbLoad, kind: s.kinds["images"]}); err != nil {
		return err
	}
	r.stand() // it takes as long as its bytes
	spool, size, err := s.spool(w, r)
	if err != nil {
		return err
	}
	defer os.Remove(spool)
	found, err := imagesIn(spool)
	if err != nil {
		return err
	}
	nodes, out, err := s.toNodes(w)
	if err != nil {
		return err
	}
	var names []string
	for _, img := range found {
		names = append(names, img.Reference)
	}
	out.say(api.ImageProgress{Status: api.ImageReceived, Images: names, Message: fmt.Sprintf("%d MB", size>>20)})
	loaded := onEach(nodes, out, api.ImageLoading, func(node string) error { return s.pushTo(r.Context(), spool, size, node) })
	end := api.ImageProgress{Status: api.ImageDone, Images: names, Message: fmt.Sprintf("on %d of %d connected nodes", len(loaded), len(nodes))}
	if len(loaded) < len(nodes) {
		end.Status = api.ImageFailed
	}
	for _, img := range found {
		if img.Nodes = loaded; len(loaded) == 0 {
			break
		}
		if err := s.recordImage(r, img); err != nil {
			end = api.ImageProgress{Status: api.ImageFailed, Message: s.problem(r.Request, err).Error()}
		}
	}
	out.say(end)
	return nil
}

// progress writes the lines of an answer.
type progress struct {
	mu    sync.Mutex
	enc   *json.Encoder
	flush func() error
}

func (p *progress) say(line api.ImageProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.enc.Encode(line) == nil { // a client that went away wants no more lines
		p.flush()
	}
}

// cleanSpool removes what uploads left behind when the process was killed.
func (s *Server) cleanSpool() {
	if s.cfg.SpoolDir == "" {
		return // others may use the system's
	}
	left, _ := filepath.Glob(filepath.Join(s.cfg.SpoolDir, spoolName))
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			s.log.Warn("clean spool", "error", err)
		}
	}
}

// spoolFile makes a file for what is on its way.
func (s *Server) spoolFile() (*os.File, error) {
	if s.cfg.SpoolDir != "" {
		if err := os.MkdirAll(s.cfg.SpoolDir, 0o700); err != nil {
			return nil, fmt.Errorf("make spool directory: %w", err)
		}
	}
	return os.CreateTemp(s.cfg.SpoolDir, spoolName)
}

// spool writes the body to a file: every node reads it at its own pace.
func (s *Server) spool(w http.ResponseWriter, r *request) (path string, size int64, err error) {
	f, err := s.spoolFile()
	if err != nil {
		return "", 0, err
	}
	size, err = io.Copy(f, http.MaxBytesReader(w, r.Body, maxImage))
	err = errors.Join(err, f.Close())
	if err == nil {
		return f.Name(), size, nil
	}
	os.Remove(f.Name())
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return "", 0, api.Errorf(api.TooLarge, "the image is larger than %d GiB", maxImage>>30)
	}
	if _, disk := errors.AsType[*os.PathError](err); disk {
		return "", 0, fmt.Errorf("spool image: %w", err)
	}
	return "", 0, api.Errorf(api.BadRequest, "the image could not be read to its end")
}

// toNodes begins an answer that tells how something goes on every connected node.
func (s *Server) toNodes(w http.ResponseWriter) (nodes []string, out *progress, err error) {
	if s.cfg.Tunnels == nil {
		return nil, nil, errNoTunnels()
	}
	nodes = s.cfg.Tunnels.Connected()
	slices.Sort(nodes)
	if len(nodes) == 0 {
		return nil, nil, api.Errorf(api.Unready, "no node is connected: none has images")
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	return nodes, &progress{enc: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}, nil
}

// onEach does something on all nodes at once and returns those where it went well.
func onEach(nodes []string, out *progress, doing string, do func(node string) error) (done []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Go(func() {
			out.say(api.ImageProgress{Node: node, Status: doing})
			if err := do(node); err != nil {
				out.say(api.ImageProgress{Node: node, Status: api.ImageFailed, Message: err.Error()})
				return
			}
			mu.Lock()
			done = append(done, node)
			mu.Unlock()
			out.say(api.ImageProgress{Node: node, Status: api.ImageDone})
		})
	}
	wg.Wait()
	slices.Sort(done)
	return done
}

func (s *Server) pushTo(ctx context.Context, path string, size int64, node string) error {
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.askAgent(ctx, node, http.MethodPut, "/v1/images", f, size)
}

// askAgent makes a request of a node's agent that answers nothing of interest.
func (s *Server) askAgent(ctx context.Context, node, method, path string, body io.Reader, size int64) error {
	client, err := s.cfg.Tunnels.Client(node)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.ContentLength = size
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("node %s stopped answering: %w", node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return &agentError{api.Code(resp.StatusCode), problemOf(resp)}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// agentError is an agent's no.
type agentError struct {
	code    api.Code
	message string
}

func (e *agentError) Error() string { return e.message }

// askNode answers below /v1/nodes/{name} with what the node's agent says at path.
func askNode(path string) func(*Server, http.ResponseWriter, *request) error {
	return func(s *Server, w http.ResponseWriter, r *request) error { return s.serveFromNode(w, r, path) }
}

func (s *Server) serveFromNode(w http.ResponseWriter, r *request, path string) error {
	ref := r.kind.ref("", r.PathValue("name"))
	a := ask{verb: api.VerbRead, kind: r.kind, name: ref.Name, part: path}
	if err := allow(r.by, a); err != nil {
		return err
	}
	key, err := r.key()
	if err != nil {
		return err
	}
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	if snap.get(key) == nil {
		return notFound(ref)
	}
	client, err := s.agent(ref, ref.Name)
	if err != nil {
		return err
	}
	s.forward(w, r, a, client, path, ref, ref.Name)
	return nil
}

// serveRemoveImage answers DELETE /v1/images: nodes whose pods need the image
// keep it, and say so.
func (s *Server) serveRemoveImage(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbLoad, kind: s.kinds["images"]}); err != nil {
		return err
	}
	parsed, err := api.ParseImage(r.URL.Query().Get("reference"))
	if err != nil {
		return api.Errorf(api.BadRequest, "reference: %s", err)
	}
	ref := parsed.String()
	nodes, out, err := s.toNodes(w)
	if err != nil {
		return err
	}
	absent := 0
	var mu sync.Mutex
	removed := onEach(nodes, out, api.ImageRemoving, func(node string) error {
		err := s.askAgent(r.Context(), node, http.MethodDelete, "/v1/images?reference="+url.QueryEscape(ref), nil, 0)
		if no, ok := errors.AsType[*agentError](err); ok && no.code == api.NotFound {
			mu.Lock()
			absent++
			mu.Unlock()
			return nil
		}
		return err
	})
	end := api.ImageProgress{Status: api.ImageDone, Images: []string{ref}, Message: fmt.Sprintf("gone from %d of %d connected nodes", len(removed), len(nodes))}
	switch {
	case absent == len(nodes):
		end.Message = "no connected node has it"
	case len(removed) < len(nodes):
		end.Status = api.ImageFailed
	}
	if end.Status == api.ImageDone {
		by := r.by
		by.rights = api.AllRights() // who may take it off the nodes may take it off the list
		_, err := s.commit(context.WithoutCancel(r.Context()), by, func(t *txn) error {
			k := s.kinds["images"]
			_, err := t.delete(k, k.ref("", api.ImageName(ref)), deletion{})
			if api.Is(err, api.NotFound) {
				return nil // it came from a registry
			}
			return err
		})
		if err != nil {
			end = api.ImageProgress{Status: api.ImageFailed, Message: s.problem(r.Request, err).Error()}
		}
	}
	out.say(end)
	return nil
}

// ociIndex is the part of an OCI layout's index.json that names images.
type ociIndex struct {
	Manifests []struct {
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Annotations map[string]string `json:"annotations"`
	} `json:"manifests"`
}

// Annotations that carry an image's name: the first is always a full one.
const (
	fullNameAnnotation = "io.containerd.image.name"
	refNameAnnotation  = "org.opencontainers.image.ref.name"
)

// imagesIn returns the images a tar in OCI layout names.
func imagesIn(path string) ([]api.ImageSpec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	defer f.Close()
	bad := func(format string, args ...any) error {
		return api.Errorf(api.BadRequest, "the body is not an image in OCI layout: "+format, args...)
	}
	var index *ociIndex
	var size int64
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, bad("it is not a tar archive")
		}
		size += h.Size
		if strings.TrimPrefix(h.Name, "./") != "index.json" {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(t, maxIndex))
		if err != nil || json.Unmarshal(b, &index) != nil {
			return nil, bad("its index.json is not valid")
		}
	}
	if index == nil {
		return nil, bad("it has no index.json; save it as one, for example with: skopeo copy … oci-archive:image.tar")
	}
	var out []api.ImageSpec
	for _, m := range index.Manifests {
		name := m.Annotations[fullNameAnnotation]
		if name == "" {
			name = fullReference(m.Annotations[refNameAnnotation])
		}
		if name != "" {
			out = append(out, api.ImageSpec{Reference: name, Digest: m.Digest, Size: size})
		}
	}
	if len(out) == 0 {
		return nil, bad("its index.json names no image: set the annotation %s to its full name, such as docker.io/library/nginx:1.27", fullNameAnnotation)
	}
	return out, nil
}

// fullReference completes a reference. A bare tag names nothing.
func fullReference(ref string) string {
	if !strings.ContainsAny(ref, ":/") {
		return ""
	}
	r, err := api.ParseImage(ref)
	if err != nil {
		return ""
	}
	return r.String()
}

// recordImage writes which nodes have an image. Another digest of the name
// takes its place: the nodes of the old one are not counted.
func (s *Server) recordImage(r *request, img api.ImageSpec) error {
	k := s.kinds["images"]
	name := api.ImageName(img.Reference)
	_, err := s.commit(context.WithoutCancel(r.Context()), r.by, func(t *txn) error {
		want := img
		if old := t.peek(k.key("", name)); old != nil {
			var was api.ImageSpec
			if err := json.Unmarshal(old.spec, &was); err != nil {
				return fmt.Errorf("decode %s: %w", old.ref(), err)
			}
			if was.Digest == img.Digest {
				want.Nodes = append(slices.Clone(was.Nodes), img.Nodes...)
				slices.Sort(want.Nodes)
				want.Nodes = slices.Compact(want.Nodes)
			}
		}
		in, err := openSpec(k, "", name, marshal(map[string]any{"spec": want}))
		if err != nil {
			return err
		}
		in.meta.Labels = nil
		_, _, err = t.putSpec(in, precondition{})
		return err
	})
	return err
}
