// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. What training_digest_test.cpp compares with. A test that fails or is skipped
/// prints its row as it stands here; rows with the same figures are one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

namespace training_digest_test {

inline constexpr std::size_t steps = 10;

/// Of a training of ten steps.
struct Figures {
  std::array<float, steps> losses;
  std::uint64_t norms;  ///< digest of the norms of the gradients of each step
  std::uint64_t state;  ///< digest of every parameter at the end, and of the optimiser's state
};

/// Figures of one training in the builds that have them.
struct Row {
  /// Compiler, target and level of optimisation, with commas between builds.
  std::string_view builds;
  std::string_view training;
  Figures figures;
};

inline constexpr Row table[] = {
    {"gcc 12 amx -O2, gcc 12 avx512 -O2, gcc 12 avx2 -O2",
     "bert_mlp_fp32",
     {{0x1.ff1416p+1F, 0x1.fd42ecp+1F, 0x1.cc5762p+1F, 0x1.055576p+2F, 0x1.1b384ap+2F,
       0x1.24bc2ep+2F, 0x1.fd0b04p+1F, 0x1.f24972p+1F, 0x1.159a12p+2F, 0x1.1aab82p+2F},
      0x223e7b7b55244a6bU,
      0x4dc44f18ef09084bU}},
    {"gcc 12 amx -O3, gcc 12 avx512 -O3",
     "bert_mlp_fp32",
     {{0x1.ff1416p+1F, 0x1.fd42ecp+1F, 0x1.cc5762p+1F, 0x1.055576p+2F, 0x1.1b384ap+2F,
       0x1.24bc2ep+2F, 0x1.fd0b04p+1F, 0x1.f24972p+1F, 0x1.159a12p+2F, 0x1.1aab82p+2F},
      0xb185ce26c8396cd2U,
      0x760cf736a1686f4cU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "bert_mlp_fp32",
     {{0x1.ff1416p+1F, 0x1.fd42ecp+1F, 0x1.cc5762p+1F, 0x1.055576p+2F, 0x1.1b384cp+2F,
       0x1.24bc2ep+2F, 0x1.fd0b06p+1F, 0x1.f24972p+1F, 0x1.159a12p+2F, 0x1.1aab82p+2F},
      0xc55bc31f8c83aa82U,
      0x2a0b6ab61d96664eU}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3",
     "bert_mlp_fp16",
     {{0x1.ff1f26p+1F, 0x1.fd357ap+1F, 0x1.cc467ep+1F, 0x1.054ed2p+2F, 0x1.1b3ed6p+2F,
       0x1.24cf5p+2F, 0x1.fd1214p+1F, 0x1.f24f6ap+1F, 0x1.15b10ep+2F, 0x1.1aac94p+2F},
      0x351029b3dc8c0ea1U,
      0x3c8591a59a7eb5dfU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "bert_mlp_fp16",
     {{0x1.ff1f26p+1F, 0x1.fd357ap+1F, 0x1.cc467ep+1F, 0x1.054e9ep+2F, 0x1.1b3aep+2F,
       0x1.24d226p+2F, 0x1.fd0fa4p+1F, 0x1.f25738p+1F, 0x1.15afe2p+2F, 0x1.1aad6cp+2F},
      0x937f2aa40ffad15dU,
      0xa6f6808898dcd746U}},
    {"gcc 12 avx2 -O2",
     "bert_mlp_fp16",
     {{0x1.ff1f26p+1F, 0x1.fd357ap+1F, 0x1.cc467ep+1F, 0x1.054ed2p+2F, 0x1.1b3ed6p+2F,
       0x1.24cf54p+2F, 0x1.fd0a34p+1F, 0x1.f2570cp+1F, 0x1.15ada2p+2F, 0x1.1aaa12p+2F},
      0xc09070135b2c668aU,
      0x2f558cfc99588c4aU}},
    {"gcc 12 amx -O2, gcc 12 amx -O3",
     "bert_mlp_bf16",
     {{0x1.ff4be8p+1F, 0x1.fd614p+1F, 0x1.cbf1ap+1F, 0x1.051ba8p+2F, 0x1.1b4c7p+2F, 0x1.24b10ap+2F,
       0x1.fd863p+1F, 0x1.f2602p+1F, 0x1.15c996p+2F, 0x1.1ad844p+2F},
      0x3cee5a5f912b61c2U,
      0xdea3b9bfad411dffU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0",
     "bert_mlp_bf16",
     {{0x1.ff4be8p+1F, 0x1.fd614p+1F, 0x1.cbf542p+1F, 0x1.0534e8p+2F, 0x1.1b8546p+2F,
       0x1.24914cp+2F, 0x1.fd99fp+1F, 0x1.f2680cp+1F, 0x1.15b3d8p+2F, 0x1.1aab14p+2F},
      0x5b84e4034e762ee2U,
      0x91dc9dd45a01e6e4U}},
    {"gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "bert_mlp_bf16",
     {{0x1.ff4be8p+1F, 0x1.fd614p+1F, 0x1.cc020ep+1F, 0x1.052c6ap+2F, 0x1.1b62bcp+2F, 0x1.2463ep+2F,
       0x1.fd52b4p+1F, 0x1.f26aa2p+1F, 0x1.15a644p+2F, 0x1.1acdfcp+2F},
      0xb6b482bb08b93cf5U,
      0xa10591caae28a24dU}},
    {"gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "bert_mlp_bf16",
     {{0x1.ff4be8p+1F, 0x1.fd614p+1F, 0x1.cc068p+1F, 0x1.05364p+2F, 0x1.1b2ad2p+2F, 0x1.249f46p+2F,
       0x1.fd70a4p+1F, 0x1.f221dap+1F, 0x1.15a93ep+2F, 0x1.1aacdap+2F},
      0x1b1084401d8414e4U,
      0x6a43f1fb93818febU}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3",
     "bert_mlp_fp8",
     {{0x1.00e2ccp+2F, 0x1.fc828ep+1F, 0x1.c97da8p+1F, 0x1.075e64p+2F, 0x1.1e6f2p+2F,
       0x1.228576p+2F, 0x1.f8e468p+1F, 0x1.f6fe04p+1F, 0x1.1734eap+2F, 0x1.1c6c78p+2F},
      0x8bc1018cb1fc63ceU,
      0x21d1ce366de74febU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "bert_mlp_fp8",
     {{0x1.00e2ccp+2F, 0x1.fc828ep+1F, 0x1.c97da8p+1F, 0x1.075e64p+2F, 0x1.1e6f2p+2F,
       0x1.228576p+2F, 0x1.f8e468p+1F, 0x1.f6d8c6p+1F, 0x1.169f2ep+2F, 0x1.1d14d8p+2F},
      0x6c1ec78beab5545bU,
      0xf56443a591a6d3fcU}},
    {"gcc 12 avx2 -O2",
     "bert_mlp_fp8",
     {{0x1.00e2ccp+2F, 0x1.fc828ep+1F, 0x1.c97da8p+1F, 0x1.075e64p+2F, 0x1.1e6f2p+2F,
       0x1.228576p+2F, 0x1.f8e468p+1F, 0x1.f6fe04p+1F, 0x1.1734eap+2F, 0x1.1c6c78p+2F},
      0x6b857ad986f01d39U,
      0xdf793aff479002dbU}},
    {"gcc 12 amx -O2, gcc 12 avx512 -O2, gcc 12 avx2 -O2",
     "bert_mlp_simulated",
     {{0x1.fff28ap+1F, 0x1.fa2d9p+1F, 0x1.cd1ccap+1F, 0x1.06e94cp+2F, 0x1.1ca3b6p+2F,
       0x1.224cdep+2F, 0x1.fa8f36p+1F, 0x1.f4f216p+1F, 0x1.14f24p+2F, 0x1.1c9556p+2F},
      0x4cf5f064049e4fedU,
      0xf80f6b56a77a4cd2U}},
    {"gcc 12 amx -O3, gcc 12 avx512 -O3",
     "bert_mlp_simulated",
     {{0x1.fff28ap+1F, 0x1.fa2d9p+1F, 0x1.cd1ccap+1F, 0x1.06e94cp+2F, 0x1.1ca3b6p+2F,
       0x1.224cdep+2F, 0x1.fa8f36p+1F, 0x1.f4f216p+1F, 0x1.14f24p+2F, 0x1.1c9556p+2F},
      0x48bbbf15e2810b41U,
      0x24225df3b7a5475eU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "bert_mlp_simulated",
     {{0x1.fff28ap+1F, 0x1.fa2d9p+1F, 0x1.cd1ccap+1F, 0x1.06e94cp+2F, 0x1.1ca3b6p+2F,
       0x1.224cdep+2F, 0x1.fa8f36p+1F, 0x1.f4f216p+1F, 0x1.14f24p+2F, 0x1.1c9556p+2F},
      0x8c9cd312acc22990U,
      0x238bb14ea8d5d467U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "decoder_fp32",
     {{0x1.ff1804p+1F, 0x1.003502p+2F, 0x1.fb88e6p+1F, 0x1.e965a8p+1F, 0x1.f29324p+1F,
       0x1.eeca6cp+1F, 0x1.dadd3p+1F, 0x1.e5661ep+1F, 0x1.e1a62ep+1F, 0x1.cf107p+1F},
      0x259ef86726cd50dcU,
      0x63ddd9d6c3126f8cU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "decoder_fp32",
     {{0x1.ff1804p+1F, 0x1.003502p+2F, 0x1.fb88e6p+1F, 0x1.e965a8p+1F, 0x1.f29324p+1F,
       0x1.eeca6cp+1F, 0x1.dadd3p+1F, 0x1.e5661ep+1F, 0x1.e1a62ep+1F, 0x1.cf107p+1F},
      0x31fae5c7f680622cU,
      0xedea5ee82656e010U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "decoder_fp16",
     {{0x1.ff17eep+1F, 0x1.00357p+2F, 0x1.fb8732p+1F, 0x1.e966aep+1F, 0x1.f294d8p+1F, 0x1.eec83p+1F,
       0x1.dadc12p+1F, 0x1.e5682ap+1F, 0x1.e1a708p+1F, 0x1.cf0eb8p+1F},
      0x6a09efe3b4ec4329U,
      0x7b779f91be3130e5U}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "decoder_fp16",
     {{0x1.ff17eep+1F, 0x1.00356ep+2F, 0x1.fb8754p+1F, 0x1.e965f8p+1F, 0x1.f29448p+1F,
       0x1.eec89ap+1F, 0x1.dadbbap+1F, 0x1.e56792p+1F, 0x1.e1a5dep+1F, 0x1.cf0c3cp+1F},
      0x35023874057cca4cU,
      0x3732d39b521c196dU}},
    {"gcc 12 amx -O2, gcc 12 amx -O3",
     "decoder_bf16",
     {{0x1.ff174ep+1F, 0x1.003342p+2F, 0x1.fb7fbp+1F, 0x1.e9694p+1F, 0x1.f29398p+1F, 0x1.eeb69ap+1F,
       0x1.dad5p+1F, 0x1.e56672p+1F, 0x1.e19776p+1F, 0x1.cf077ep+1F},
      0x90f7765a2841696dU,
      0xa210d48eda9d41adU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0",
     "decoder_bf16",
     {{0x1.ff174ep+1F, 0x1.003342p+2F, 0x1.fb7faep+1F, 0x1.e96d1cp+1F, 0x1.f2912ap+1F,
       0x1.eeb5e4p+1F, 0x1.dade66p+1F, 0x1.e5653ep+1F, 0x1.e1960ap+1F, 0x1.cf066cp+1F},
      0x14d03e0250cf3ae5U,
      0xb2ab6dc8b40e3c2dU}},
    {"gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "decoder_bf16",
     {{0x1.ff174ep+1F, 0x1.00312cp+2F, 0x1.fb7718p+1F, 0x1.e961eap+1F, 0x1.f29122p+1F,
       0x1.eebc5ep+1F, 0x1.dad79p+1F, 0x1.e5655ep+1F, 0x1.e18d7p+1F, 0x1.cf0138p+1F},
      0xe8e432ed68aadc5bU,
      0xec8fc9849d1f355bU}},
    {"gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "decoder_bf16",
     {{0x1.ff174ep+1F, 0x1.00312cp+2F, 0x1.fb7718p+1F, 0x1.e961e2p+1F, 0x1.f29046p+1F,
       0x1.eeba72p+1F, 0x1.dad626p+1F, 0x1.e56466p+1F, 0x1.e18bap+1F, 0x1.cf064cp+1F},
      0x612815493def865eU,
      0x5df0677a4be25ee4U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3",
     "decoder_fp8",
     {{0x1.ff048cp+1F, 0x1.002214p+2F, 0x1.fb3baap+1F, 0x1.e9e042p+1F, 0x1.f25cbcp+1F,
       0x1.eeadc6p+1F, 0x1.db4e12p+1F, 0x1.e564a4p+1F, 0x1.e1bdd8p+1F, 0x1.cf4fcp+1F},
      0xf629adcd472bc768U,
      0xf15eb74a2ed68f1U}},
    {"gcc 12 amx -O1, gcc 12 amx -O0",
     "decoder_fp8",
     {{0x1.ff048cp+1F, 0x1.002214p+2F, 0x1.fb3baap+1F, 0x1.e9e042p+1F, 0x1.f25cbcp+1F,
       0x1.eeadc6p+1F, 0x1.db4e12p+1F, 0x1.e564a4p+1F, 0x1.e1bdd8p+1F, 0x1.cf4fcp+1F},
      0xf629adcd472bc768U,
      0xa1fa8884cb5ad087U}},
    {"gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "decoder_fp8",
     {{0x1.ff048cp+1F, 0x1.002214p+2F, 0x1.fb3baap+1F, 0x1.e9e042p+1F, 0x1.f25cbcp+1F,
       0x1.eeadc6p+1F, 0x1.db4e12p+1F, 0x1.e564a4p+1F, 0x1.e1bdd8p+1F, 0x1.cf4fcp+1F},
      0x52109879037a901eU,
      0x13fe97e08393bbb5U}},
    {"gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "decoder_fp8",
     {{0x1.ff048cp+1F, 0x1.002214p+2F, 0x1.fb3baap+1F, 0x1.e9e042p+1F, 0x1.f25cbcp+1F,
       0x1.eeadc6p+1F, 0x1.db4e12p+1F, 0x1.e564a4p+1F, 0x1.e1bdd8p+1F, 0x1.cf4fcp+1F},
      0x52109879037a901eU,
      0x1bcae6af960f8e3fU}},
    {"gcc 12 amx -O2, gcc 12 avx512 -O2",
     "relative_decoder_fp32",
     {{0x1.1ac07p+2F, 0x1.22e2ap+2F, 0x1.0cb4a8p+2F, 0x1.0d859p+2F, 0x1.ff274p+1F, 0x1.04a23p+2F,
       0x1.0147e8p+2F, 0x1.03438p+2F, 0x1.eea6e6p+1F, 0x1.027172p+2F},
      0xdee04585c501c559U,
      0xb1eb608fdc08a2dbU}},
    {"gcc 12 amx -O3, gcc 12 avx512 -O3",
     "relative_decoder_fp32",
     {{0x1.1ac07p+2F, 0x1.22e2ap+2F, 0x1.0cb4a8p+2F, 0x1.0d859p+2F, 0x1.ff273ep+1F, 0x1.04a23p+2F,
       0x1.0147e8p+2F, 0x1.03438p+2F, 0x1.eea6eap+1F, 0x1.02716cp+2F},
      0xc3f2f6f9d0b0a385U,
      0x24b3057cc41e21eeU}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "relative_decoder_fp32",
     {{0x1.1ac07p+2F, 0x1.22e2ap+2F, 0x1.0cb4a8p+2F, 0x1.0d859p+2F, 0x1.ff274p+1F, 0x1.04a23p+2F,
       0x1.0147e8p+2F, 0x1.03437cp+2F, 0x1.eea6f6p+1F, 0x1.027186p+2F},
      0x5c04cc2969687c05U,
      0xb934b0583f20cf21U}},
    {"gcc 12 avx2 -O2",
     "relative_decoder_fp32",
     {{0x1.1ac07p+2F, 0x1.22e2ap+2F, 0x1.0cb4a8p+2F, 0x1.0d8592p+2F, 0x1.ff2744p+1F, 0x1.04a232p+2F,
       0x1.0147e8p+2F, 0x1.034374p+2F, 0x1.eea6ap+1F, 0x1.02713ep+2F},
      0x611769f42322f97fU,
      0x126990d926d2a4b0U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3",
     "relative_decoder_fp16",
     {{0x1.1ac1d4p+2F, 0x1.22e9bep+2F, 0x1.0c9686p+2F, 0x1.0d7adcp+2F, 0x1.ff51e2p+1F,
       0x1.04d588p+2F, 0x1.01608ap+2F, 0x1.030c8p+2F, 0x1.ec9b5p+1F, 0x1.03e7d4p+2F},
      0xe680feaeee1191daU,
      0x81849f4aed4c2693U}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "relative_decoder_fp16",
     {{0x1.1ac1d4p+2F, 0x1.22e9dap+2F, 0x1.0c955ap+2F, 0x1.0d7998p+2F, 0x1.ff52e2p+1F,
       0x1.04d6c4p+2F, 0x1.01630ap+2F, 0x1.030e54p+2F, 0x1.ecf712p+1F, 0x1.04217ap+2F},
      0x551f7bfa50e341adU,
      0x876821f1c5e272d4U}},
    {"gcc 12 avx2 -O2",
     "relative_decoder_fp16",
     {{0x1.1ac1d4p+2F, 0x1.22e9bep+2F, 0x1.0c9612p+2F, 0x1.0d799ep+2F, 0x1.ff4f76p+1F,
       0x1.04d674p+2F, 0x1.01649cp+2F, 0x1.03186ap+2F, 0x1.ecfc36p+1F, 0x1.041906p+2F},
      0x15f4d2a46377b438U,
      0x293bac4f3743c970U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3",
     "relative_decoder_bf16",
     {{0x1.1ad8b2p+2F, 0x1.230c6cp+2F, 0x1.0cc65cp+2F, 0x1.0d4ac8p+2F, 0x1.0013b6p+2F,
       0x1.04fb8cp+2F, 0x1.ff64fep+1F, 0x1.0246b6p+2F, 0x1.f18c88p+1F, 0x1.fdb264p+1F},
      0x6fef5cb3b0cb293U,
      0x80b7b34004065305U}},
    {"gcc 12 amx -O1, gcc 12 amx -O0",
     "relative_decoder_bf16",
     {{0x1.1ad8b2p+2F, 0x1.230c6cp+2F, 0x1.0cc50cp+2F, 0x1.0d4acp+2F, 0x1.001a6p+2F, 0x1.0507b4p+2F,
       0x1.ffa3d6p+1F, 0x1.02473cp+2F, 0x1.f2c2bap+1F, 0x1.ffc272p+1F},
      0x5fca93236f41e513U,
      0xbcebd12f06576e49U}},
    {"gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "relative_decoder_bf16",
     {{0x1.1ad8b2p+2F, 0x1.230c6cp+2F, 0x1.0ccf4p+2F, 0x1.0d5348p+2F, 0x1.00181ap+2F, 0x1.04feap+2F,
       0x1.ff916ep+1F, 0x1.022b34p+2F, 0x1.f38774p+1F, 0x1.002accp+2F},
      0xdadd7269d0c314d7U,
      0xf4a92fc6e11b24d9U}},
    {"gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "relative_decoder_bf16",
     {{0x1.1ad8b2p+2F, 0x1.230c6cp+2F, 0x1.0ccc26p+2F, 0x1.0d4de2p+2F, 0x1.00245ap+2F,
       0x1.0506c6p+2F, 0x1.ffba64p+1F, 0x1.0237fap+2F, 0x1.f28bcp+1F, 0x1.fff56cp+1F},
      0x5e8bac93a5cae13dU,
      0x3f72dee9f0724db7U}},
    {"gcc 12 amx -O2, gcc 12 amx -O3, gcc 12 avx512 -O2, gcc 12 avx512 -O3, gcc 12 avx2 -O2",
     "relative_decoder_fp8",
     {{0x1.1b7662p+2F, 0x1.225a6cp+2F, 0x1.0b16ccp+2F, 0x1.0bee3ap+2F, 0x1.fc64p+1F, 0x1.04af68p+2F,
       0x1.05900ep+2F, 0x1.fe05a2p+1F, 0x1.05bb84p+2F, 0x1.0d3d5ap+2F},
      0x8d4aa52a301949f3U,
      0xacd5d8a7d7307882U}},
    {"gcc 12 amx -O1, gcc 12 amx -O0, gcc 12 avx512 -O1, gcc 12 avx512 -O0",
     "relative_decoder_fp8",
     {{0x1.1b7662p+2F, 0x1.225a6cp+2F, 0x1.0b455p+2F, 0x1.0be50cp+2F, 0x1.fc392ap+1F,
       0x1.048cdap+2F, 0x1.03f382p+2F, 0x1.fc223cp+1F, 0x1.05ae3ep+2F, 0x1.0e61f6p+2F},
      0x65b53a9d8377f952U,
      0x1410bbf9dcabcbf9U}},

};

/// Calls `visit(build)` for each build of a row.
template <class Visitor> void for_each_build(const Row& row, const Visitor& visit) {
  constexpr std::string_view separator = ", ";
  std::string_view rest = row.builds;
  while (!rest.empty()) {
    const std::size_t end = rest.find(separator);
    visit(rest.substr(0, end));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + separator.size());
  }
}

[[nodiscard]] inline bool has_build(const Row& row, std::string_view build) {
  bool is_there = false;
  for_each_build(row, [&](std::string_view each) { is_there = is_there || each == build; });
  return is_there;
}

/// The builds that have figures.
[[nodiscard]] inline std::set<std::string_view> all_builds() {
  std::set<std::string_view> builds;
  for (const Row& row : table) {
    for_each_build(row, [&](std::string_view build) { builds.insert(build); });
  }
  return builds;
}

}  // namespace training_digest_test
