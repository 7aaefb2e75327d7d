// check reads what the project ships for Docker Compose and Kubernetes as their own programs read it, strictly: an unknown
// field, or a value of a wrong kind, is an error.
//
//	check compose FILE...      # each over the ones before it; prints services, their published ports and the files they are shown
//	check kubernetes FOLDER    # a kustomization; prints what it makes
//	check dockerfile FILE
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: check compose FILE... | check kubernetes FOLDER | check dockerfile FILE")
	}
	var err error
	switch os.Args[1] {
	case "compose":
		err = checkCompose(os.Args[2:])
	case "kubernetes":
		err = checkKubernetes(os.Args[2])
	case "dockerfile":
		err = checkDockerfile(os.Args[2])
	default:
		err = fmt.Errorf("no such check: %s", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func checkCompose(files []string) error {
	options, err := cli.NewProjectOptions(files, cli.WithOsEnv, cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		fmt.Printf("service %s %s\n", name, service.Image)
		for _, port := range service.Ports {
			fmt.Printf("port %s %s:%s %d\n", name, port.HostIP, port.Published, port.Target)
		}
		for _, volume := range service.Volumes {
			if volume.Type == "bind" {
				fmt.Printf("bind %s %s\n", volume.Source, volume.Target)
			}
		}
	}
	return nil
}

func checkKubernetes(folder string) error {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return err
		}
		into, known := types[resource.GetKind()]
		if !known {
			return fmt.Errorf("%s: no type to read it by", resource.GetKind())
		}
		if err := yaml.UnmarshalStrict(bytes.TrimSpace(text), into()); err != nil {
			return fmt.Errorf("%s %s: %w", resource.GetKind(), resource.GetName(), err)
		}
		fmt.Printf("---\n%s", text)
	}
	return nil
}

// checkDockerfile reads it as docker build does, and prints each stage's base and user.
func checkDockerfile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return err
	}
	for _, warning := range parsed.Warnings {
		return fmt.Errorf("%s", warning.Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		user := "root"
		for _, command := range stage.Commands {
			if to, isUser := command.(*instructions.UserCommand); isUser {
				user = to.User
			}
		}
		fmt.Printf("stage from %s as %s\n", stage.BaseName, user)
	}
	return nil
}

var types = map[string]func() any{
	"ConfigMap":           func() any { return &core.ConfigMap{} },
	"Deployment":          func() any { return &apps.Deployment{} },
	"NetworkPolicy":       func() any { return &networking.NetworkPolicy{} },
	"PodDisruptionBudget": func() any { return &policy.PodDisruptionBudget{} },
	"Service":             func() any { return &core.Service{} },
	"ServiceMonitor":      func() any { return &monitoring.ServiceMonitor{} },
	"StatefulSet":         func() any { return &apps.StatefulSet{} },
}
