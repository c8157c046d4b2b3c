<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="en_US">
<context>
    <name>legion</name>
    <message>
        <source>&amp;Back</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Close the window</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Dark</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Do not join</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Finish this round, then pause</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Join</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Join with an invite…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Legion</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Light</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Next</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Nickname</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Open Legion</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Pause</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Quit Legion</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Resume</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Skip</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Snooze</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Start training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Team</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Theme</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;View</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>1 hour</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>24 hours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>30 days</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A code is good for 10 minutes and once: ask for another on a device that is linked already.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A file with an invite</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A game runs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A graphics card is free: training moves there.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A program covers the screen.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A program to add</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Accepted from you</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Activity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Add</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Add files with text, or lower data.seq_len.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Address at which other members reach this computer; by itself, the one it reaches the server from.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>After such a pause, go on when the card is cooler.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>After such a pause, go on when the processor is cooler.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All hours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Always</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>As the &amp;system</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask before quitting, because that stops training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask the operator for a new invite (&apos;legion-server invite&apos;).</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask the operator for a new invite and join with it; one that this computer has used before does not count.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask the operator of the server.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Automatic</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Back to the default</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Back to the default: {setting}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Balanced</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Battery</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Both sides need certificates of the same server and the same plan; restart the client to renew them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Change the named fields; GET /training/config shows the whole configuration.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Change the setting {setting}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Change this setting</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check that it runs and that the address is right.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check the address and your connection; the client keeps trying by itself.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check the dataset&apos;s name and files on the server.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check the name; the parent path lists what exists.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a program</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a running program, or type a name</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose another one.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Claim a nickname first, or link the device to the account of another one.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Claimed at the server, for its public lists; empty: you are not named.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Clear the client&apos;s data cache; if it happens again, the server&apos;s data folder was changed under the run.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute more slowly on a card that is hotter.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute more slowly while the processor is hotter.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute on graphics cards also while you use this computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute on graphics cards.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute on the processor where no graphics card computes.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute only in the hours below.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compute only while this computer is idle.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Computers</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Connected to {server}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copied. Read it before you send it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy for a bug report</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cores left free while this computer is idle; one always computes.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Correct it and try again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Disk</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Disk space to leave free.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Dismiss</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Do not ask again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Do not go on: somebody may be between you and the server. Ask the operator for a fresh invite.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Do you have an invite?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Drag over hours, or move with the arrow keys and press Space.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Errors</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everything</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fastest download; 0: no limit.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fastest upload; 0: no limit.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fetch the round&apos;s plan, and go on from there.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fetches the model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fetches the run&apos;s data</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fingerprint</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Fingerprint (compare it with the operator&apos;s)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Finishes this round, then pauses</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Finishing this round</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For 1 hour</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For 15 minutes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For 4 hours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Free a card&apos;s memory when other programs need it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Free disk space or choose another folder; finished checkpoints are intact.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Friday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From a file…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From information on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Full</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} ({name}) no longer answers.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} has enough free memory again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} is at {celsius} °C: it runs at {pace} % of its speed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} is at {celsius} °C: it waits until it is below {resume_celsius} °C.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} is no longer reported as too hot. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics card {gpu} was too warm: it runs at {pace} % of its speed and gets faster again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics cards</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics cards shall not be used.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics cards: auto, always or never.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphics cards: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Graphs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Home</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours of the week</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours of the week in which to compute.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Friday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Monday, such as 22:00-07:00; none: not at all.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Saturday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Sunday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Thursday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Tuesday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hours that begin on Wednesday.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far the run is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How long other programs must be above or below that before anything changes.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How long the cause of a pause must be gone before training goes on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How much of it?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>If computing on the battery is allowed, pause when it holds less than this.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In round {round} of {rounds}, on its own</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In round {round} of {rounds}, with {others} other computers</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In step {step} of {steps}, on its own</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In round {round} of {rounds}, with 1 other computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>&amp;Finish</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>3 to 24 letters and digits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A new &amp;name</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Account</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Another one takes over within seconds; ask again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask your router to open a port (NAT-PMP, UPnP), so that other members reach this computer directly.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Be reached through a relay: auto where the server cannot reach this computer, always, or never.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Claim this name</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Code or phrase</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Code or recovery phrase</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Device {number}: {credit} credit</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In step {step} of {steps}, with 1 other computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In step {step} of {steps}, with {others} other computers</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Install the same Legion version on both sides.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Invite</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>It counts as device {number} until you give it a name. Neither a password nor an e-mail is needed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>It is outside the hours you chose.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Its last words: {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Join a run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Join this run?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Join with an invite…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Keep training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Leaving the run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion is starting.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion joins idle computers over the internet into one that trains a language model, which everybody may then use. It works while you do not, and steps aside when you play, unplug or need the computer. It costs electricity, a few hundred watts with a large graphics card, and some of your connection. It reads none of your files. The server and the other computers see your network address.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion keeps training when you close this window. Quit stops it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion says why it waits, and you can pause it at any time from its icon.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion will train a model together with others for the server below. It gets this computer&apos;s name and hardware, and sees its network address.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion&apos;s folder holds {used_gb} GB, and {most_gb} GB are allowed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Legion&apos;s folder is small enough again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Level</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Light</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Link another computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Link to that account</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Log</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Logs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Looking for what this computer has…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Loss</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Lower the learning rate or use fp32; if one worker alone does this, its hardware is suspect.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory of a card to leave free for other programs to grow into.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Monday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most disk space to use; 0: no limit but those below.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most of a card&apos;s memory to use.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most of the disk to use.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most of the measured upload speed to use.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most of the memory to hold while this computer is idle.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most of the memory to hold while you use this computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most to send and receive in a calendar month; 0: no limit.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Names of programs that have the graphics cards to themselves.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Names of programs that have this computer to themselves while they run.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Needs attention</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Network</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Never</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>New recovery phrase</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nickname</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nights and weekends</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No graphics card that can train was found, so the processor does it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No graphics card was found.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No program covers the screen any more. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No program that has the graphics cards to itself runs any more. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No program that has this computer to itself runs any more. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No setting has “{words}” in its name or explanation.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nobody&apos;s computer yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>None</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Not measured on this computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing has been logged at this level.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing has been measured yet.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing has happened yet. What Legion does here, and why, will stand on this page.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing is to be done: the run goes on from where it stands, with the computers that are ready then.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing tells whether this computer is in use: graphics cards wait unless they may compute in use, too.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Numbers of graphics cards never to compute on, from 0.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Offline</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On new text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Only warnings and errors</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Only while I do not use this computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Only {free_gb} GB of the disk are free, and {least_gb} GB shall stay free.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open legion:// links with Legion</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open my page</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open the folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Or a &amp;code, if you have a name on another computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Other programs need the memory of graphics card {gpu}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Other programs use less of the processor again. Training goes on when that has been so for {busy_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Other programs use {load} % of the processor.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>P&amp;references…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Page {n} of {all}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pages</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause a card that is hotter.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause on battery</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause the processor&apos;s work while other programs load it above this; 0: never.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause when the processor is hotter.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while a game runs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while a program covers the screen</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while a program covers the screen.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while the connection costs by volume</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while the connection costs by volume.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while the system says that a game runs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause while this computer runs on its battery.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Paused</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Paused by you for a while.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Paused by you.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pauses when this round is finished.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pausing</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Physical cores to compute with while this computer is idle.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Physical cores to compute with while you use this computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Port for other members; 0: any free port.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Power</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Power of a card to use: by the card&apos;s own limit where this computer permits it, else by rests in between.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Preferences</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Processor</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Programs and games</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Progress</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quit</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quit Legion?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quitting stops training on this computer. To go on without a window, close the window instead.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Read so far</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ready: waits for the run to take this computer in</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Received</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Remove</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Report this with the log around it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Resume it from its last checkpoint: legion-server up --resume.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rounds</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Run modes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saturday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Search the preferences</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>See the engine&apos;s log; out of memory and driver faults end it without a message.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Send the admin&apos;s or the worker&apos;s token as &apos;Authorization: Bearer ...&apos;.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Send them to another server, and look here again in a few seconds.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sends what is left to send</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sent</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Server</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Server {server}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Set &amp;up again…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Set the clock, and start again: nobody would believe certificates of the past.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Set up Legion</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Settings: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of the time to compute on graphics cards.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of the time to compute while this computer is idle.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of the time to compute while you use this computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Show as table</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Skip this page</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Slow down while what Legion moves holds up others on the line.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Snooze</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start Legion when I log in</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start a new run in another data folder to train with another configuration.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start it again and resume the run from its last checkpoint.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start it in a desktop session, or run &apos;legion-client --no-gui&apos;, which needs no window.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start it: &apos;legion-client&apos;, or &apos;legion-client --no-gui&apos; without a window.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Starting</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Starts the training engine</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Step</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Step {step} of {steps}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Steps</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stop the other program, or choose another port with --port.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stopping</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sunday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Syncing</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Take 3 to 24 letters and digits, with - _ . between them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Takes part in the run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Taking part in the run broke off, and is tried again soon: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Teams, what the server knows of you, and being forgotten are on your page.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Temperature</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The battery holds enough again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The battery holds {charge} %, and training needs {least} %.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The computer shuts down: what was learned is kept.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The connection costs by volume.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The connection no longer costs by volume. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The copy leaves out keys, invites, addresses, names and folders. Read it before you send it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The disk has space again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The game is over. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The graphics card does not answer: training waits for it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The graphics card is needed: training goes on without it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The graphics card rests for long: training goes on without it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The network: auto, always or never; without it nothing is trained.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor is at {celsius} °C: training runs at {pace} % of its speed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor is at {celsius} °C: training waits until it is below {resume_celsius} °C.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor is no longer reported as too hot. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor shall not be used.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor shall not compute, and the graphics card cannot.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor was too warm: training runs at {pace} % of its speed and gets faster again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The processor: auto follows the rules, always ignores all but your programs and heat.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The reducer is broken or hostile; the operator can revoke it. The next in the list does the span.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The round is finished, as you asked.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run accepted {tokens} tokens of this computer&apos;s work; {total} in all.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run goes on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is complete; what is left is being sent.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is over</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is over: waits for the next one</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is over; this computer waits for the next one.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is paused by its operator</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run is paused by its operator; this computer waits until it goes on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The run&apos;s data takes {needed_gb} GB of the disk, and {most_gb} GB may be used.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The sender is broken or hostile; the operator can revoke it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The server does not take the nickname {nickname}: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The server is heard again, after {minutes} min.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The server is not heard: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The server is not heard: {problem}. It is tried again; training goes on as far as it can.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The server&apos;s lists show both names. Neither is needed: no password, no e-mail.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The team {team} could not be asked: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine crashed {times} times: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine ended to free memory; it starts again when it is needed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine ended unexpectedly: {problem}. It is started again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine failed several times in a row: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine failed {times} times in a row: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The training engine is ready; this computer waits to be taken in.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>There is enough memory again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>There were no warnings and no errors.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This app</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer counts for {nickname} from now on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer gives nothing yet. The person who runs a server can send you an invite, a link that begins with legion://. Then everything that happens here, and why, is on this page.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer has joined {server}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer has left {server}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer has not joined a run yet.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer is in use: graphics cards wait until it has been idle for {minutes} min.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer is in use: training waits until it has been idle for {minutes} min.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer is plugged in again. Training goes on when that has been so for {quiet_s} s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer is shutting down.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer no longer takes part: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer runs on its battery.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer takes part in no run yet. Join one with an invite.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer trains on its own, from step {step} on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer trains together with one other computer, from step {step} on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer trains together with {others} other computers, from step {step} on.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer, device {number}: {credit} credit</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This desktop does not report input: training keeps to the limits of a computer in use.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This desktop reports neither input nor load: training keeps to the limits of a computer in use.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This desktop shows no tray, so Legion has no icon there. It keeps training when you close this window; start Legion again to open it. Should a tray appear, the icon does too.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This desktop shows no tray: start Legion again to open the window.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This holds until Legion ends and no longer: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This month&apos;s {month_gb} GB are used up ({used_gb} GB).</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Thursday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Time</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokens a second</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training cannot use the graphics card: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training goes on after {minutes} min.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training holds {held_gb} GB of memory, and only {most_gb} GB may be used now.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training is not exact: report this with the printed table.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Training waits until the settings can be read: {problem}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tuesday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Two computers must not share one identity: join this one with an invite of its own, in a new home (--home).</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Type this on the other computer, under Account, within {time}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Until tomorrow</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use &apos;legion-client status&apos; to see it, or give the second one a folder of its own with --home.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use another checkpoint; this one is incomplete or damaged.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use the &amp;graphics card</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Wait for the time that Retry-After names.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Waiting</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Warnings and errors</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Wednesday</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What it held waits and goes with the next one; nothing is lost.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What may Legion use?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What the model writes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What the model writes after {step} steps</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What the operator sees; by itself, this computer&apos;s name.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When graphics cards are back to auto.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When should it run?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When that ends; without a time, when you resume.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When the network is back to auto.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When the processor is back to auto.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When you are away</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Who gets the credit?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Without a key or pointer movement for so long, this computer counts as idle.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Without one, ask the person who runs a server; you can join later.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You can change every detail in the preferences.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You excluded graphics card {gpu}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You gave the graphics cards to {program} while it runs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You gave this computer to {program} while it runs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You switched graphics cards off for training.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You switched the network off for training.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You switched the processor off for training.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Your idle computer can train a language model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Your rank</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Your recovery phrase. Write it down: it is shown this once, and links computers.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Your share</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>by itself</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>cannot be used</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>computes now</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>does not compute</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>empty: no team</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>empty: you are not named</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>every step is shared</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>graphics card {number}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>has asked to join the team {team}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>in the team {team}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>of another computer of yours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>on no board</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>place {rank}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>waits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{credit} credit</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{nickname} has asked to join the team {team}; its founder answers.</source>
        <translation type="unfinished"></translation>
    </message>
    <message numerus="yes">
        <source>{n} cores</source>
        <translation type="unfinished">
            <numerusform></numerusform>
            <numerusform></numerusform>
        </translation>
    </message>
    <message>
        <source>loss {loss}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Team that is asked to take you in, by its name; needs a nickname; empty: none.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>may compute</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not counted yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>of the run</source>
        <translation type="unfinished"></translation>
    </message>
    <message numerus="yes">
        <source>of {n} computers</source>
        <translation type="unfinished">
            <numerusform></numerusform>
            <numerusform></numerusform>
        </translation>
    </message>
    <message>
        <source>of {rounds}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>of {steps}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rests</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>round {round}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>separated by commas</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>switched off</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>take part</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>this round is finished, as you asked</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>tokens a second</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>tomorrow {time}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>trains</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>trains in part of it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{day}, {begin} to {end}: {what}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{file} cannot be read.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{first} to {last}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{hours} {minutes} min</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{loss} on new text</source>
        <translation type="unfinished"></translation>
    </message>
    <message numerus="yes">
        <source>{n} days</source>
        <translation type="unfinished">
            <numerusform></numerusform>
            <numerusform></numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>{n} hours</source>
        <translation type="unfinished">
            <numerusform></numerusform>
            <numerusform></numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>{n} minutes</source>
        <translation type="unfinished">
            <numerusform></numerusform>
            <numerusform></numerusform>
        </translation>
    </message>
    <message>
        <source>{progress} ({seconds} s)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{rate} tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{sentence} Until {time}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{title}: show as table</source>
        <translation type="unfinished"></translation>
    </message>
</context>
</TS>
