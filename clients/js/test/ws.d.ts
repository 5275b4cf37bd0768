declare const WebSocket: unknown;
export default WebSocket;
