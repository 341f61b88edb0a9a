//! Compiles the wire contracts with protox, so that nobody needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["agent.proto", "job.proto", "event.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".rhyzome.job.v1.Order.steps")
        .compile_fds(descriptors)?;
    Ok(())
}
