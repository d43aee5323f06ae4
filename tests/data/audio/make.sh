#!/bin/sh
# Makes the fixtures of this folder. $1: a recording of speech, at least 3 s.
set -e
sox -n -r 48000 -c 1 -b 16 a.wav synth 1.0 sine 440 gain -9
sox -n -r 48000 -c 1 -b 16 s.wav trim 0 0.5
sox -n -r 48000 -c 1 -b 16 k.wav synth 0.005 whitenoise gain -3
sox -n -r 48000 -c 1 -b 16 z.wav trim 0 0.495
sox -n -r 48000 -c 1 -b 16 b.wav synth 1.0 sine 1000 gain -9
sox -D a.wav s.wav k.wav z.wav b.wav tone48.wav
F="ffmpeg -v error -y -bitexact"
$F -i tone48.wav -c:a libmp3lame -b:a 48k -ar 44100 -ac 2 tone.mp3
$F -i tone48.wav -c:a aac -b:a 48k -ar 44100 -ac 2 tone.m4a
$F -f lavfi -i color=c=black:s=32x32:r=5:d=3 -i tone48.wav -c:v mpeg4 -c:a aac -b:a 48k -shortest video.mp4
$F -f lavfi -i color=c=black:s=32x32:r=5:d=1 -c:v mpeg4 silent-video.mp4
$F -i tone48.wav -c:a aac -b:a 32k -f adts tone.aac
$F -i tone48.wav -c:a libvorbis -q:a 1 -ac 2 tone.ogg
opusenc --quiet --bitrate 24 --serial 1 --discard-comments --padding 0 tone48.wav tone.opus
$F -i tone48.wav -c:a libopus -b:a 24k -ac 2 -f webm tone.webm
$F -i tone48.wav -c:a libvorbis -q:a 1 -f matroska vorbis.mkv
$F -i tone48.wav -c:a libopus -b:a 24k tone-opus.mp4
$F -i tone48.wav -c:a flac -ar 16000 tone.flac
$F -i tone48.wav -c:a alac -ar 8000 alac.m4a
$F -i tone48.wav -c:a pcm_mulaw -ar 8000 mulaw.wav
$F -i tone48.wav -c:a pcm_alaw -ar 8000 alaw.wav
$F -i tone48.wav -c:a adpcm_ima_wav -ar 11025 adpcm.wav
sox -D "$1" -r 48000 -c 1 -b 16 speech48.wav trim 0 3
for f in 2.5 60; do $F -i speech48.wav -c:a libopus -b:a 16k -frame_duration $f speech-$f.opus; done
$F -i speech48.wav -c:a libopus -b:a 32k -ac 6 -mapping_family 1 speech-5.1.opus || true
$F -i speech48.wav -c:a libmp3lame -b:a 32k -ar 16000 speech.mp3
rm -f a.wav s.wav k.wav z.wav b.wav tone48.wav speech48.wav
for l in de en es; do
    espeak-ng -v $l -s 150 -f spoken-$l.txt -w spoken.wav
    sox -D spoken.wav -r 16000 -C 8 spoken-$l.flac
done
rm -f spoken.wav
